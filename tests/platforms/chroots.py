"""Systems from Debian's packages: unpacked into a folder, and run in namespaces of their own.

No package's scripts run, so a system of another processor is unpacked like any other.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import user_namespace
from .base import ROOT, NotHere, run, site

#: Mounts what a system needs, in a mount namespace that ends with the command.
_ENTER = """
set -e
root=$1 checkout=$2 site=$3 register=$4
shift 4
mount -t proc proc /proc
if [ -n "$register" ]; then
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    printf '%s' "$register" > /proc/sys/fs/binfmt_misc/register
fi
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --rbind "$checkout" "$root/checkout"
mount --rbind "$site" "$root/site"
exec chroot "$root" "$@"
"""
#: Where packages are: those compiled here, and Debian's, which PyPy would not look into.
_PACKAGES = ("/usr/local/packages", "/usr/lib/python3/dist-packages")
#: Folders that are names for others since Debian 12.
_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


class Chroot:
    """A `Machine` from packages."""

    checkout = "/checkout"

    def __init__(self, root: Path, shared: Path, python: Sequence[str], register: str) -> None:
        self._root, self._shared, self._register = root, shared, register
        self._python = python
        self.site = "/site"

    def command(self, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """See `Machine.command`."""
        variables = {
            "PATH": "/usr/sbin:/usr/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **environment,
            "PYTHONPATH": ":".join(filter(None, (environment.get("PYTHONPATH"), *_PACKAGES))),
        }
        # Only there a handler for foreign programs can be registered for these alone.
        own_users = (sys.executable, str(Path(user_namespace.__file__)))
        return [
            *(own_users if self._register else ()),
            *("unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child"),
            *("sh", "-c", _ENTER, "sh", str(self._root), str(ROOT), str(self._shared)),
            self._register,
            *("/usr/bin/env", "-i", *(f"{key}={value}" for key, value in variables.items())),
            *(*self._python, *arguments),
        ]


def unpack(
    cache: Path,
    suite: str,
    architecture: str,
    packages: Sequence[str],
    python: Sequence[str] = ("/usr/bin/python3",),
    register: str = "",
) -> Chroot:
    """Return a system of Debian's, its packages downloaded and unpacked if need be."""
    if os.geteuid():
        raise NotHere("needs root")
    for program in ("debootstrap", "dpkg-deb", "unshare"):
        if shutil.which(program) is None:
            raise NotHere(f"{program} is not installed")
    root = cache / f"{suite}-{architecture}-{abs(hash_of(packages)):08x}"
    if not (root / ".ready").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for name in _LINKS:
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        downloaded = root / "download"
        run(
            [
                *("debootstrap", "--download-only", "--variant=minbase"),
                *(f"--arch={architecture}", f"--include={','.join(packages)}"),
                *(suite, str(downloaded), _mirror()),
            ],
            900,
        )
        for package in sorted(downloaded.glob("var/cache/apt/archives/*.deb")):
            # Through tar, which goes through the links above and does not replace them.
            unpacking = 'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"'
            run(["sh", "-c", f"set -e; {unpacking}", "sh", str(package), str(root)])
        shutil.rmtree(downloaded)
        _bundle_certificates(root)
        for name in ("dev", "proc", "tmp", "checkout", "site"):
            (root / name).mkdir(exist_ok=True)
        (root / ".ready").touch()
    return Chroot(root, site(cache), python, register)


def _bundle_certificates(root: Path) -> None:
    """Do what the package's script would: pip does not start without the file."""
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text("".join(each.read_text() for each in certificates))


def hash_of(packages: Sequence[str]) -> int:
    """Return a number that is the same for the same packages, in every run."""
    import zlib

    return zlib.crc32(" ".join(packages).encode())


def _mirror() -> str:
    """Return where this system has its own packages from."""
    targets = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    for uri in targets.splitlines():
        if "security" not in uri:
            return uri.strip()
    raise NotHere("apt-get names no repository of packages; it may need 'apt-get update'")
