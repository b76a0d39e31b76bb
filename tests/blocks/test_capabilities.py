"""Capabilities as bits: the kernel's own numbers, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.blocks.capabilities import EVERY, mask, names

# linux/capability.h of Linux 6.1, a few of the 41, picked from both ends and around the word of 32 bits.
NUMBERS = {"CHOWN": 0, "SETPCAP": 8, "NET_RAW": 13, "SYS_ADMIN": 21, "MKNOD": 27, "SETFCAP": 31, "MAC_OVERRIDE": 32, "SYSLOG": 34, "BPF": 39, "CHECKPOINT_RESTORE": 40}  # fmt: skip


@pytest.mark.parametrize(("name", "number"), NUMBERS.items())
def test_each_has_the_kernels_number(name: str, number: int) -> None:
    assert mask([name]) == 1 << number


def test_there_are_as_many_as_the_kernel_knows() -> None:
    assert mask(EVERY) == (1 << 41) - 1


def test_what_a_real_container_showed() -> None:
    """`CapBnd` of a container under `minimal`."""
    assert names(0x4FB) == ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")


@given(st.sets(st.sampled_from(sorted(EVERY))))
def test_there_and_back(chosen: set[str]) -> None:
    assert names(mask(chosen)) == tuple(sorted(chosen))


def test_a_capability_that_is_newer_than_us_has_its_number() -> None:
    assert names(1 << 45) == ("number 45",)


def test_a_name_that_linux_does_not_have_is_an_error() -> None:
    with pytest.raises(KeyError):
        mask(["FLY"])
