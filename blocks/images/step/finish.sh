#!/bin/sh
# Last touches of the step image, the same for every way of building it. Runs as root inside the new system.
set -eu

# The step's user. The sandbox may choose another uid; this one gives plain `docker run` a name and a home.
grep -q '^step:' /etc/passwd || echo 'step:x:1000:1000:Step:/home/step:/bin/bash' >>/etc/passwd
grep -q '^step:' /etc/group || echo 'step:x:1000:' >>/etc/group
mkdir -p /home/step /workspace /out
chown 1000:1000 /home/step /workspace /out

# Prompts say `python` and `pip install`; in a container of one step the system's Python is the step's own.
ln -sf /usr/bin/python3 /usr/local/bin/python
rm -f /usr/lib/python3*/EXTERNALLY-MANAGED

# A workspace belongs to whoever runs the orchestrator, whose uid has no name in here; git would refuse it.
git config --system --add safe.directory '*'

# What building copied from the host, and what no step reads.
: >/etc/machine-id
: >/etc/resolv.conf
: >/etc/hostname
command -v apt-get >/dev/null || rm -rf /etc/apt/apt.conf.d/99mmdebstrap /etc/apt/sources.list*
rm -rf /usr/share/doc/* /usr/share/man/* /usr/share/info/* /usr/share/locale/* /usr/share/lintian \
  /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* /tmp/recipe

# A setuid program is of no use under no-new-privileges, and a finding in every scan. Folders by name, not `find /`:
# while building, the host's own /dev lies in here, and `-xdev` does not see that when both are on one file system.
find /etc /home /opt /root /srv /usr /var -xdev -perm /6000 -type f -exec chmod a-s {} +
