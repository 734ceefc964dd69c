# SPDX-License-Identifier: GPL-2.0
"""What scripts/ide does inside the build root.

FMAP_ROOT and FMAP_KERNEL are the paths that / and /kernel have on the host.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess

TOP = pathlib.Path(__file__).resolve().parent.parent
BUILD = TOP / "build"
HOST_ROOT = os.environ["FMAP_ROOT"]
HOST_KERNEL = os.environ["FMAP_KERNEL"]

# What clangd needs of a command line. It does not know all of GCC's options.
KEPT = re.compile(r"-(I|D|U|std=|nostdinc$|W|f(short-wchar|unsigned-char|ms-extensions)|m64|target$)")
TAKES_VALUE = ("-include", "-target", "-I", "-D", "-isystem")


def on_host(text):
    """The same text with the paths of the host."""
    text = re.sub(r"(^|-I|\")/kernel/", rf"\1{HOST_KERNEL}/", text)
    text = re.sub(r"(^|-I|\")/usr/(include|lib)\b", rf"\1{HOST_ROOT}/usr/\2", text)
    return text


def sysroot(path):
    """A sysroot whose programs run on the host: they are started with the libraries of the root."""
    libraries = f"{HOST_ROOT}/usr/lib/x86_64-linux-gnu"
    for name, options in (("bin/rustc", f"--sysroot {HOST_ROOT}/usr"),
                          ("libexec/rust-analyzer-proc-macro-srv", "")):
        program = path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\nexec {HOST_ROOT}/lib64/ld-linux-x86-64.so.2 --library-path "
                           f'{libraries} {HOST_ROOT}/usr/{name} {options} "$@"\n')
        program.chmod(0o755)
    lib = path / "lib"
    lib.unlink(missing_ok=True)
    lib.symlink_to(f"{HOST_ROOT}/usr/lib")
    return path


def rust_project():
    """The kernel's own target knows its crates; the module's needs to find its bindings."""
    (BUILD / "ide").mkdir(exist_ok=True)
    compiler = subprocess.run([TOP / "scripts/compiler", "/kernel/build"], check=True, text=True,
                              stdout=subprocess.PIPE).stdout.split()
    subprocess.run(["make", "-s", "-C", "/kernel/build", f"M={TOP}", f"MO={BUILD}/ide",
                    *compiler, "rust-analyzer"],
                   env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")}, check=True)
    project = json.loads((BUILD / "ide/rust-project.json").read_text())
    project["sysroot"] = str(sysroot(BUILD / "ide/sysroot"))
    for crate in project["crates"]:
        if crate["display_name"] != "fuse_dax_fmap":
            continue
        crate["env"]["FUSE_DAX_FMAP_BINDINGS"] = str(BUILD / "bindings")
        crate["source"] = {
            "include_dirs": [str(TOP)],
            "exclude_dirs": [str(TOP / ".git"), str(TOP / "tools")]
            + [str(path) for path in sorted(BUILD.iterdir()) if path.name != "bindings"],
        }
    return project


def entry(directory, command):
    """Entries of compile_commands.json for the C files that a command line names."""
    words = shlex.split(command)
    arguments, files = [], []
    value = False
    for word in words[1:]:
        if value:
            arguments.append(word)
            value = False
        elif word in TAKES_VALUE:
            arguments.append(word)
            value = True
        elif KEPT.match(word) and not word.startswith("-Wp,"):
            arguments.append(word)
        elif word.endswith(".c") and not word.startswith("-"):
            files.append(word)
    if "-nostdinc" not in arguments:
        arguments.append("--sysroot=" + HOST_ROOT)
    for file in files:
        yield {
            "directory": str(directory),
            "file": os.path.normpath(os.path.join(directory, file)),
            "arguments": ["clang", *map(on_host, arguments), "-Wno-unknown-warning-option",
                          "-c", file],
        }


def compile_commands():
    # kbuild leaves each command in a file; "make -n" tells the others.
    for name in (".fuse_dax_fmap_btf.o.cmd", "bindings/.kernel_static.o.cmd"):
        line = (BUILD / name).read_text().splitlines()[0]
        yield from entry(BUILD, line.partition(":=")[2].partition(";")[0])
    variables = ["KSRC=/kernel/source", "CC=gcc", "CLANG=clang-19", f"OUT={BUILD}/ide"]
    for folder in ("bpf", "tests", "tests/host", "bench"):
        commands = subprocess.run(["make", "-nB", "-C", TOP / folder, *variables, "all"],
                                  stdout=subprocess.PIPE, text=True, check=True).stdout
        for line in commands.splitlines():
            if line.startswith(("gcc ", "clang-19 ")):
                yield from entry(TOP / folder, line)


def write(name, data):
    new = TOP / (name + ".new")
    new.write_text(json.dumps(data, indent=1) + "\n")
    new.rename(TOP / name)


project = json.loads(on_host(json.dumps(rust_project())))
write("rust-project.json", project)
print(f"rust-project.json: {len(project['crates'])} crates")
# The first command of a file counts.
commands = {}
for one in compile_commands():
    commands.setdefault(one["file"], one)
write("compile_commands.json", list(commands.values()))
print(f"compile_commands.json: {len(commands)} C files")
