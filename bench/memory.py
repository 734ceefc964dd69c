#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""memory.py files PREFIX COUNT NAME: how much kernel memory COUNT files need, "PREFIX0" and so on.
memory.py mounts SERVER COUNT: how much COUNT mounts of a server need, without files.

Prints bytes for each file or mount, by what was done:

  memory NAME cached      files that were opened and closed
  memory NAME mapped      the same, which were mapped by mmap(2) and touched once, and are not now
  memory NAME open        the same, held open
  memory NAME in use      the same, held open and mapped
  memory NAME mount       mounts, with the stacks and descriptors of their servers

It is what /proc/meminfo has for slabs and per-CPU memory, so there is some noise. Page tables and
the memory of the server are not in it.
"""

import mmap
import os
import sys
import time

FIELDS = ("Slab", "Percpu", "KernelStack")


def used():
    """Settle, then count."""
    time.sleep(2)
    with open("/proc/meminfo", encoding="utf-8") as lines:
        values = dict(line.split(":") for line in lines)
    return sum(int(values[field].split()[0]) * 1024 for field in FIELDS)


def drop():
    with open("/proc/sys/vm/drop_caches", "w", encoding="utf-8") as file:
        file.write("2\n")


def say(name, what, before, count):
    print(f"memory {name} {what}: {(used() - before) / count:.0f}", flush=True)


def touch(fd):
    with mmap.mmap(fd, 4096, trackfd=False) as memory:
        return memory[0]


def files(prefix, count, name):
    paths = [f"{prefix}{number}" for number in range(int(count))]
    for path in paths[:100]:  # so that what is allocated once is there
        fd = os.open(path, os.O_RDWR)
        if name != "fuse":
            touch(fd)
        os.close(fd)
    drop()
    empty = used()
    for path in paths:
        os.close(os.open(path, os.O_RDWR))
    say(name, "cached", empty, len(paths))
    for path in paths:
        fd = os.open(path, os.O_RDWR)
        touch(fd)
        os.close(fd)
    say(name, "mapped", empty, len(paths))
    fds = [os.open(path, os.O_RDWR) for path in paths]
    say(name, "open", empty, len(paths))
    # Without trackfd=False, Python would duplicate each descriptor.
    maps = [mmap.mmap(fd, 4096, trackfd=False) for fd in fds]
    for memory in maps:
        memory[0]  # pylint: disable=pointless-statement
    say(name, "in use", empty, len(paths))
    for memory in maps:
        memory.close()
    for fd in fds:
        os.close(fd)


def mounts(server, count):
    dirs = [f"/tmp/mount{number}" for number in range(int(count))]
    for path in dirs:
        os.mkdir(path)
    for name, command in (("striped", f"{server} -o striped"), ("fuse", server)):
        before = used()
        for path in dirs:
            if os.system(f"{command} {path}"):
                sys.exit(f"{command} has failed")
        say(name, "mount", before, len(dirs))
        for path in dirs:
            os.system(f"umount {path}")
    for path in dirs:
        os.rmdir(path)


{"files": files, "mounts": mounts}[sys.argv[1]](*sys.argv[2:])
