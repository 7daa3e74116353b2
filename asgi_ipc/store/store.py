"""Opening a store: finding, checking or making its two segments.

The lock file decides. Its record says which memory belongs to the store; a store whose
record is not ready, is of another boot, or of another version and used by nobody, or whose
memory is gone, is made afresh, under the OPENING lock, with a *new* lock file if the old
one may still be in use: then everybody who has the old one sees that it is unlinked and
opens again. There are never two stores.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..exceptions import Reentered, StoreCorrupt, StoreUnavailable
from .bells import check_fifos
from .layout import (
    BYTE_ORDER,
    CHANNELS,
    DESTROYED,
    FLUSHES,
    GROUPS,
    MAGIC,
    VERSION,
    W_BUCKETS,
    W_BYTE_ORDER,
    W_EXTENT_WORDS,
    W_KIND,
    W_MAGIC,
    W_SIZE,
    W_STORE_ID,
    W_VERSION,
    WORD,
    Geometry,
)
from .locks import Gone as Gone
from .place import check_owner, make_directory, removal, unusable
from .region import NAMES, Region
from .segment import Place, Segment
from .sidecar import Record, open_sidecar

if TYPE_CHECKING:
    from .attachment import Attachment


_PACKAGE = __name__.partition(".")[0] + "."


def boot_identity() -> bytes:
    """16 bytes that are the same for all processes until the machine starts again.

    Zeros where the system can't tell; a file then outlives a restart with what it held.
    """
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return _digest(file.read())
    # The time of the boot comes last: some systems move it when the clock is set.
    for name in ("kern.bootsessionuuid", "kern.boot_id", "kern.boottime"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", name]
            said = subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
            if said.strip():
                return _digest(said)
    return bytes(16)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _outside() -> int:
    """For `warnings.warn`, the stacklevel of whoever called this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


class Store:
    """The two segments of a store, open in this process."""

    def __init__(
        self,
        engine: type[Attachment],
        place: Place,
        sizes: dict[int, int],
        on_recovery: Callable[[], None],
    ) -> None:
        """Open it, or make it. Raises `StoreUnavailable`."""
        self.place = place
        self._segment = engine.segment
        self._engine = engine
        self._sizes = sizes
        self._on_recovery = on_recovery
        self.regions: dict[int, Region] = {}
        #: What to warn of once it is open: whoever shows warnings may use the store.
        self._warnings: list[str] = []
        make_directory(place)
        try:
            check_fifos(place)
            self._find()
        except BaseException:
            self.remove_directory()
            raise
        self.store_id = self._record.store_id
        try:
            for text in self._warnings:
                warnings.warn(text, RuntimeWarning, stacklevel=_outside())
        except BaseException:
            self.close()
            raise

    def _find(self) -> None:
        """Get the lock file that is the store's, and attach or create what it says."""
        place = self.place
        while True:
            try:
                self.sidecar = open_sidecar(place)
            except FileNotFoundError:  # removed between the making and now
                make_directory(place)
                continue
            except OSError as error:
                raise unusable("open the lock file in", place.directory, error) from error
            try:
                with self._opening() as linked:
                    if linked and self._open():
                        break
            except OSError as error:
                self._close_regions()
                self.sidecar.close()
                raise unusable("open the store in", place.directory, error) from error
            except BaseException:
                self._close_regions()
                self.sidecar.close()
                raise
            self.sidecar.close()

    @contextlib.contextmanager
    def _opening(self) -> Iterator[bool]:
        """Be alone among openers; yields whether the lock file still is the store's."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.sidecar.opening())
            except Gone:  # a forked child may find it so
                yield False
                return
            yield self.is_current()

    # ---- under the opening lock

    def _open(self) -> bool:
        """Attach or create; False if the lock file had to go and opening must begin again."""
        record = self.sidecar.read()
        boot = boot_identity()
        if record and record.engine and record.engine != self._engine.name:
            raise StoreUnavailable(
                f"the store at {self.place.directory!r} was made by engine {record.engine!r}, "
                f"this is {self._engine.name!r}; choose another prefix or directory"
            )
        if record and record.version != VERSION:
            self._check_unused(record)
        elif record and record.ready and record.boot_id == boot:
            try:
                self._attach(record)
                if not any(region.is_destroyed() for region in self.regions.values()):
                    return True
                # Who destroyed it was killed on the way.
                for region in self.regions.values():
                    region.close()
            except FileNotFoundError:
                pass  # its memory was removed by hand
        if record:
            self._make_place(record)
            if record.ready:
                # Others may still be inside: they must see that this is not the store.
                os.unlink(self.sidecar.path)
                return False
        self._create(boot)
        return True

    def _check_unused(self, record: Record) -> None:
        """Refuse the store of another version of asgi_ipc, unless nobody is left who uses it."""
        what = (
            f"the store at {self.place.directory!r} is of format {record.version}, this asgi_ipc "
            f"uses format {VERSION}"
        )
        if self.sidecar.in_use(record.store_id):
            raise StoreUnavailable(
                f"{what}, and processes of the other version still use it; end them, "
                "or choose another prefix"
            )
        self._warnings.append(f"{what}; nobody used it any more, so it made place for a fresh one")

    def _make_place(self, record: Record) -> None:
        """Remove the memory of a store that is to be made afresh."""
        try:
            self._remove_memory(record)
        except PermissionError as error:
            raise StoreUnavailable(
                f"the store at {self.place.directory!r} is to be made afresh, but its memory "
                f"belongs to another user, who alone may remove it ({error.strerror}); let a "
                "process of that user start first, or choose another prefix"
            ) from error

    def _attach(self, record: Record) -> None:
        self.sidecar.prepare(record.store_id, create=False)
        regions = {}
        try:
            for kind, locator in ((CHANNELS, record.channels), (GROUPS, record.groups)):
                segment = self._segment.attach(self.place, locator)
                try:
                    self._check(kind, segment, locator, record.store_id)
                    regions[kind] = self._region(kind, segment)
                except BaseException:
                    segment.close()
                    raise
        except BaseException:
            for region in regions.values():
                region.close()
            raise
        self.regions, self._record = regions, record
        for kind, region in regions.items():
            if region.heap.geometry.size != self._sizes[kind]:
                option = "channel_memory" if kind == CHANNELS else "group_memory"
                self._warnings.append(
                    f"the store at {self.place.directory!r} was made with {option}="
                    f"{region.heap.geometry.size}; that size stays, and {self._sizes[kind]} "
                    "is ignored"
                )

    def _region(self, kind: int, segment: Segment) -> Region:
        def command() -> str:
            return removal(self._engine.argument(), self.place)

        return Region(kind, segment, self.sidecar, self._on_recovery, command)

    def _check(self, kind: int, segment: Segment, locator: str, store_id: bytes) -> None:
        """Refuse memory that isn't what the lock file says, touching nothing of it."""
        check_owner(locator, segment.owner(), self.place)
        view = segment.view
        if view.nbytes < Geometry.of(kind, 0).first_extent * WORD:
            raise StoreUnavailable(f"{locator!r} has {view.nbytes} bytes, too few for a store")
        if view[:8].tobytes() != MAGIC:
            raise StoreUnavailable(
                f"{locator!r} is not the memory of a store: it has no mark; remove it and the "
                "lock file, or choose another prefix"
            )
        with view.cast("B")[: 64 * WORD] as head, head.cast("Q") as words:
            expected = {
                W_BYTE_ORDER: ("byte order mark", BYTE_ORDER),
                W_VERSION: ("format", VERSION),
                W_KIND: ("kind", kind),
                W_SIZE: ("size", view.nbytes),
                W_EXTENT_WORDS: ("extent size", Geometry.of(kind, view.nbytes).extent_words),
                W_BUCKETS: ("hash table size", Geometry.of(kind, view.nbytes).buckets),
            }
            for word, (what, value) in expected.items():
                if words[word] != value:
                    raise StoreUnavailable(
                        f"{locator!r} has {what} {words[word]:#x}, this asgi_ipc on a "
                        f"{sys.byteorder}-endian machine expects {value:#x}; end the other "
                        "processes and remove the store, or choose another prefix"
                    )
        found = view[W_STORE_ID * WORD : W_STORE_ID * WORD + 16].tobytes()
        if found != store_id:
            raise StoreUnavailable(
                f"{locator!r} belongs to store {found.hex()}, the lock file to "
                f"{store_id.hex()}; remove both, or choose another prefix"
            )

    def _create(self, boot: bytes) -> None:
        """Make both segments: first say what they will be, then make them, then say ready."""
        token = secrets.token_hex(8)
        locators = {kind: self._segment.locator_for(name, token) for kind, name in NAMES.items()}
        record = Record(
            False,
            secrets.token_bytes(16),
            boot,
            locators[CHANNELS],
            locators[GROUPS],
            self._engine.name,
            VERSION,
        )
        regions: dict[int, Region] = {}
        try:
            self.sidecar.write(record)
            self.sidecar.prepare(record.store_id, create=True)
            for kind, locator in locators.items():
                regions[kind] = self._create_one(kind, locator, record.store_id)
            self.sidecar.write(record._replace(ready=True))
        except BaseException as error:
            # While there still is something to look at.
            refusal = self._no_memory(error) if isinstance(error, OSError) else None
            for region in regions.values():
                region.close()
            with contextlib.suppress(OSError):
                self._remove_memory(record)
            with contextlib.suppress(OSError):
                os.unlink(self.sidecar.path)
                os.rmdir(self.place.directory)
            if refusal:
                raise refusal from error
            raise
        self.regions, self._record = regions, record

    def _create_one(self, kind: int, locator: str, store_id: bytes) -> Region:
        size = self._sizes[kind]
        segment = self._segment.create(self.place, locator, size)
        try:
            geometry = Geometry.of(kind, size)
            segment.reserve(0, geometry.first_extent * WORD)
            region = self._region(kind, segment)
        except BaseException:
            segment.close()
            raise
        words = region.words
        words[W_BYTE_ORDER], words[W_VERSION], words[W_KIND] = BYTE_ORDER, VERSION, kind
        words[W_SIZE], words[W_EXTENT_WORDS] = size, geometry.extent_words
        words[W_BUCKETS] = geometry.buckets
        segment.view[W_STORE_ID * WORD : W_STORE_ID * WORD + 16] = store_id
        region.format()
        segment.view[W_MAGIC : W_MAGIC + 8] = MAGIC
        return region

    def _no_memory(self, error: OSError) -> StoreUnavailable:
        asked = sum(self._sizes.values())
        return StoreUnavailable(
            f"can't make a store of {asked:,} bytes ({error.strerror}): "
            f"{self._segment.space(self.place)}; use a smaller channel_memory and group_memory, "
            "another engine, or more shared memory (--shm-size for a container)"
        )

    def _remove_memory(self, record: Record) -> None:
        self.sidecar.remove_memory(self._segment, self.place, record)

    # ---- afterwards

    def is_current(self) -> bool:
        """False once the lock file has been removed or moved away."""
        return self.sidecar.is_at(os.path.join(self.place.directory, "lock"))

    def flushes(self) -> int:
        """How often the store was flushed. Takes no lock."""
        return self.regions[CHANNELS].words[FLUSHES]

    def destroy(self) -> None:
        """Mark the store as gone for those inside, then remove it."""
        for region in self.regions.values():
            # What is corrupt can't be marked: those inside see that the lock file is gone.
            with contextlib.suppress(Gone, StoreCorrupt), region as heap:
                heap.commit({}, after=DESTROYED)
        with self._opening() as linked:
            try:
                self._remove_memory(self._record)
                if linked:
                    os.unlink(self.sidecar.path)
            except OSError as error:
                raise unusable("remove the store at", self.place.directory, error) from error

    def remove_memory(self) -> None:
        """Take away the memory of a store that is not the store any more."""
        with contextlib.suppress(OSError):
            self._remove_memory(self._record)

    def remove_directory(self) -> None:
        """Take away what is empty."""
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(self.place.directory)
            if self.place.private:
                os.rmdir(os.path.dirname(self.place.directory))

    def close(self) -> None:
        """Let go of the memory and the lock file."""
        with self.sidecar.thread_lock:
            if self.sidecar.inside:
                raise Reentered
            self._close_regions()
        self.sidecar.close()

    def _close_regions(self) -> None:
        for region in self.regions.values():
            region.close()
