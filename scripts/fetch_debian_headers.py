#!/usr/bin/env python3
"""Fetch the C++ headers that the native libraries need and a machine may not have installed.

    scripts/fetch_debian_headers.py [onnxruntime] [highway] [--output DIR]

They come out of Debian packages of the release "trixie", from the archive that this machine's own apt is set up with;
nothing is installed. Every byte is checked: the archive's signature with Debian's keyring, the package list and the
packages by their SHA-256. The folder for each is printed; `xlstm-export plugins build` finds them where they are put by
default.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

RELEASE = "trixie"  # the first Debian release that has ONNX Runtime
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = {  # name: (package, folder of its headers, the part of it that is needed)
    "onnxruntime": ("libonnxruntime-dev", "usr/include/onnxruntime/", ""),
    "highway": ("libhwy-dev", "usr/include/", "hwy/"),
}


def default_output() -> Path:
    """As xlstm_export.native.toolchain.headers_folder, which looks there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xlstm-export" / "include"


def run(*command: str, data: bytes | None = None) -> bytes:
    if shutil.which(command[0]) is None:
        sys.exit(
            f"error: {command[0]} is not here. This script needs a Debian or Ubuntu machine; elsewhere install "
            "the headers of ONNX Runtime and Google Highway by hand."
        )
    done = subprocess.run(command, input=data, capture_output=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.read()
    except OSError as error:
        raise ConnectionError(f"{url}: {error}") from error


def checked(url: str, sha256: str) -> bytes:
    data = download(url)
    if hashlib.sha256(data).hexdigest() != sha256:
        sys.exit(f"error: {url} is not what the archive's index says (SHA-256 differs). Try again later.")
    return data


def archives() -> list[str]:
    """Addresses of the package archives in apt's configuration, in its order."""
    lines = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").decode().split()
    return list(dict.fromkeys(line.rstrip("/") for line in lines if line.startswith(("http:", "https:"))))


def release_index(archive: str) -> str:
    """The signed index of the release."""
    signed = download(f"{archive}/dists/{RELEASE}/InRelease")
    with tempfile.NamedTemporaryFile() as file:
        file.write(signed)
        file.flush()
        return run("gpgv", "--quiet", "--keyring", KEYRING, "--output", "-", file.name).decode()


def package_list(archive: str, architecture: str) -> dict[str, dict[str, str]]:
    """Fields of the packages we want, by name."""
    index, path = release_index(archive), f"main/binary-{architecture}/Packages.xz"
    hashes = index.split("\nSHA256:\n")[1].splitlines()
    sha256 = next(line.split()[0] for line in hashes if line.endswith(f" {path}"))
    text = lzma.decompress(checked(f"{archive}/dists/{RELEASE}/{path}", sha256)).decode()
    wanted = {package for package, _, _ in PACKAGES.values()}
    found = {}
    for stanza in text.split("\n\n"):
        name = stanza.partition("\n")[0].removeprefix("Package: ")
        if name in wanted:
            lines = (line.partition(": ") for line in stanza.splitlines() if not line.startswith(" "))
            found[name] = {key: value for key, _, value in lines}
    return found


def extract(package: bytes, folder: str, part: str, output: Path) -> None:
    """Write the regular files below `folder` + `part` of a .deb to `output`."""
    shutil.rmtree(output, ignore_errors=True)
    with tempfile.NamedTemporaryFile(suffix=".deb") as file:
        file.write(package)
        file.flush()
        tar = run("dpkg-deb", "--fsys-tarfile", file.name)
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        for member in members:
            path = member.name.removeprefix("./")
            if member.isfile() and path.startswith(folder + part):
                target = output / path.removeprefix(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(members.extractfile(member).read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PACKAGES)}; all when none is given")
    parser.add_argument("--output", type=Path, default=default_output(), metavar="DIR", help="default: %(default)s")
    arguments = parser.parse_args()
    names = arguments.names or list(PACKAGES)
    for name in names:
        if name not in PACKAGES:
            parser.error(f"{name!r} is none of {', '.join(PACKAGES)}")
    architecture = run("dpkg", "--print-architecture").decode().strip()
    tried = []
    for archive in archives():
        try:
            packages = package_list(archive, architecture)
        except ConnectionError as error:  # an archive without this release, such as that of security updates
            tried.append(str(error))
            continue
        for name in names:
            package, folder, part = PACKAGES[name]
            fields = packages[package]
            extract(checked(f"{archive}/{fields['Filename']}", fields["SHA256"]), folder, part, arguments.output / name)
            print(f"{arguments.output / name}  ({package} {fields['Version']})")
        return
    sys.exit(
        "error: no archive in apt's configuration has Debian's release "
        + RELEASE
        + "".join(f"\n  {line}" for line in tried)
    )


if __name__ == "__main__":
    main()
