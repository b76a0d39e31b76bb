#!/bin/sh
# Last touches of the proxy image, the same for every way of building it. Runs as root inside the new system.
set -eu

# A user of its own, with a number that no distribution gives out; squid and socat never need root.
grep -q '^egress:' /etc/passwd || echo 'egress:x:3128:3128:Egress:/:/usr/sbin/nologin' >>/etc/passwd
grep -q '^egress:' /etc/group || echo 'egress:x:3128:' >>/etc/group

# The engine copies owner and mode of this folder to the volume that it puts here.
mkdir -p /sockets
chown 3128:3128 /sockets
chmod 0700 /sockets

# What building copied from the host, and what nobody reads.
: >/etc/machine-id
: >/etc/resolv.conf
: >/etc/hostname
command -v apt-get >/dev/null || rm -rf /etc/apt/apt.conf.d/99mmdebstrap /etc/apt/sources.list*
rm -rf /usr/share/doc/* /usr/share/man/* /usr/share/info/* /usr/share/locale/* /usr/share/lintian \
  /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* /tmp/recipe

# A setuid program is of no use under no-new-privileges, and a finding in every scan.
find /etc /home /opt /root /srv /usr /var -xdev -perm /6000 -type f -exec chmod a-s {} +
