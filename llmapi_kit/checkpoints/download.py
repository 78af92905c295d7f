"""Downloads of the hub's models: several files at once, resumed where they broke off, and never silent when they stall.

huggingface_hub's own functions throw away what is there of a file when a download breaks off, and wait in silence; this
one goes on from the last byte, also after an interrupt or in another process. What it downloads lies in the same cache,
under the same names. Blocking: call it from a cell or a worker thread. Only the files that are named are downloaded.

Source: https://github.com/huggingface/huggingface_hub/issues/4085 for stalls.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # documented, not declared

from llmapi_kit.checkpoints.file_transfer import (
    CorruptFileError,
    FileTransfer,
    RefusedError,
    StoppedError,
    WaitError,
    open_client,
)
from llmapi_kit.checkpoints.hub import HubFile, HubModel, check_hub_model, endpoint, explain, look_up
from llmapi_kit.checkpoints.hub_cache import REVISION, ModelCache, cache_folder, cached_folder, free_disk_bytes
from llmapi_kit.checkpoints.remote_code import CODE_FILES, code_files
from llmapi_kit.checkpoints.spec import HUB_ID
from llmapi_kit.config import Settings
from llmapi_kit.errors import ModelLoadError, ModelNotFoundError
from llmapi_kit.progress import report

logger = logging.getLogger(__name__)

DEFAULT_STALL_S = float(Settings.model_fields["download_stall_s"].default)
NUM_WORKERS = 4
MAX_TRIES = 5  # without a byte in between
REPORT_EVERY_S = 0.2
FIRST_WAIT_S = 0.25  # before the next attempt; doubled each time
QUIET_S = 3.0  # without a byte, from when on it is said
LOCK_WAIT_S = 1.0
JOIN_S = 2.0
MAX_WAIT_S = 300.0  # that the hub may ask for
# What has to stay free on the disk after a download
DISK_RESERVE_BYTES = 1_000_000_000
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

_running: dict[str, Download] = {}  # by name of the model


def download_model(
    name: str,
    stall_s: float,
    check_fit: Callable[[Path, int], None],
    revision: str | None = None,
    *,
    subfolder: str = "",
    has_code: bool = False,
) -> Path:
    """The folder of a hub model, whole: from the cache, else downloaded.

    Args:
        name: ``owner/name``.
        stall_s: see `Download`.
        check_fit: gets a folder with the configuration and the size of the weights before those are downloaded; what
            it raises ends the download.
        revision: a branch, a tag or a commit; the main branch unless given.
        subfolder: where in the repository it is; empty for the top.
        has_code: whether its code is wanted, too.

    Raises:
        ModelNotFoundError: there is no such model, it needs a token, or the hub can't be reached.
        UnsupportedModelError: it is of a kind that can't be loaded.
        ModelLoadError: the disk is too small, or the download failed; the message has the numbers.
    """
    folder = cached_folder(name, revision, subfolder)
    if folder is not None and not (has_code and _lacks_code(folder, name)):
        return folder
    report(f"asking the hub for {name}")
    model = check_hub_model(name, revision, subfolder)
    small = [*model.other_files, *(model.matching(CODE_FILES) if has_code else ())]
    download = Download(model, stall_s, revision)
    download.check_disk([*small, *model.weights])
    check_fit(download.fetch(small) / subfolder, model.weights_bytes)
    download.fetch(model.weights)
    return download.finish() / subfolder


def _lacks_code(folder: Path, name: str) -> bool:
    """Whether a model was downloaded without its code."""
    return any(not (folder / file).is_file() for file in code_files(folder, name))


def find_folder(name: str, what: str, files: tuple[str, ...], stall_s: float = DEFAULT_STALL_S) -> Path:
    """The folder of something that comes beside a model: a folder as it is, or downloaded from the hub.

    Args:
        name: a folder, or ``owner/name``.
        what: it is, for messages.
        files: to download; patterns of file names.
        stall_s: see `Download`.

    Raises:
        ModelNotFoundError: there is no such thing, or the hub can't be reached.
        ModelLoadError: see `download_model`.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path.resolve()
    if not HUB_ID.fullmatch(name):
        raise ModelNotFoundError(f"There is no {what} {name!r}: it must be a folder, or a hub name like 'owner/name'.")
    try:
        model = look_up(name)
    except ModelNotFoundError as exc:
        folder = ModelCache(name).newest  # without the hub, what is there has to do
        if folder is None:
            raise ModelNotFoundError(
                f"The {what} {name} is not a folder here, and can't be had from the Hugging Face hub: {exc}"
            ) from exc
        return folder
    download = Download(model, stall_s)
    download.check_disk(model.matching(files))
    download.fetch(model.matching(files))
    return download.finish()


def stop_download(name: str) -> bool:
    """Stop the download of a model that runs in another thread; what is there is kept. Whether there was one."""
    running = _running.get(name)
    if running is not None:
        running.stop()
    return running is not None


class Download:
    """Files of one model, on their way into the cache.

    Args:
        model: what the hub told of it.
        stall_s: how long a file may stay without a byte before it is asked for again.
        revision: that was asked for.

    Attributes:
        folder: where the files are, by their names.
    """

    def __init__(self, model: HubModel, stall_s: float, revision: str | None = None) -> None:
        self._model = model
        self._stall_s = stall_s
        self._cache = ModelCache(model.name, revision or REVISION)
        self.folder = self._cache.snapshot(model.commit)
        self._stopped = threading.Event()
        self._note = ""  # what holds it up; the last word wins

    def fetch(self, files: Sequence[HubFile]) -> Path:
        """Download files that are not there; an interrupt leaves what is there, for the next call to go on with.

        Raises:
            ModelLoadError: the disk is too small, or the download went on failing; the message has the numbers.
            ModelNotFoundError: the hub refuses it.
        """
        transfers = [self._transfer(file) for file in files]
        try:
            self._cache.blobs.mkdir(parents=True, exist_ok=True)
            self._cache.lock_folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise self._unwritable(exc) from exc
        missing = [transfer for transfer in transfers if not transfer.target.exists()]
        if missing:
            logger.info("Downloading %d files of %s from %s", len(missing), self._model.name, endpoint())
            self._run(missing)
        for transfer in transfers:
            self._cache.link(self._model.commit, transfer.file.name, transfer.target.name)
        return self.folder

    def stop(self) -> None:
        """End `fetch` in another thread with an error; what is there is kept."""
        self._stopped.set()

    def check_disk(self, files: Sequence[HubFile]) -> None:
        """Raise `ModelLoadError` unless the disk has room for what is missing of files."""
        missing = sum(self._transfer(file).missing_bytes for file in files)
        free = free_disk_bytes()
        if missing and missing + DISK_RESERVE_BYTES > free:
            raise ModelLoadError(
                f"{self._model.name} is a download of {_size(missing)}, and the disk of {cache_folder()} has "
                f"{_size(free)} free, of which {_size(DISK_RESERVE_BYTES)} must stay. {_more_room()}"
            )

    def finish(self) -> Path:
        """Note that all of it is there; returns the folder."""
        self._cache.set_newest(self._model.commit)
        return self.folder

    def _transfer(self, file: HubFile) -> FileTransfer:
        url = f"{endpoint()}/{self._model.name}/resolve/{self._model.commit}/{file.name}"
        return FileTransfer(url, file, self._cache.blobs, self._stopped)

    def _run(self, transfers: Sequence[FileTransfer]) -> None:
        """Download in threads, and say how it goes from this one, which an interrupt reaches at any time."""
        waiting: queue.SimpleQueue[FileTransfer] = queue.SimpleQueue()
        for transfer in sorted(transfers, key=lambda each: each.missing_bytes):
            waiting.put(transfer)
        ends: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=self._work, args=(waiting, ends), name="llmapi_kit download", daemon=True)
            for _ in range(min(NUM_WORKERS, len(transfers)))
        ]
        failure: Exception | None = None
        num_running = len(threads)
        _running[self._model.name] = self
        try:
            for thread in threads:
                thread.start()
            while num_running and failure is None and not self._stopped.is_set():
                with contextlib.suppress(queue.Empty):
                    failure = ends.get(timeout=REPORT_EVERY_S)
                    num_running -= 1
                self._report(transfers)
        except KeyboardInterrupt:
            report(f"downloading {self._model.name}: {self._kept(transfers)}")
            raise
        finally:
            _running.pop(self._model.name, None)
            is_unwanted = self._stopped.is_set()
            self._end(transfers, threads)
        if failure is not None:
            raise self._explained(failure, transfers) from failure
        if is_unwanted:
            raise ModelLoadError(f"The download of {self._model.name} was stopped. {self._kept(transfers)}")

    def _end(self, transfers: Sequence[FileTransfer], threads: Sequence[threading.Thread]) -> None:
        """Let no thread go on, and wait for them a while."""
        self._stopped.set()
        for transfer in transfers:
            transfer.cut()
        deadline = time.monotonic() + JOIN_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._stopped = threading.Event()

    def _work(self, waiting: queue.SimpleQueue[FileTransfer], ends: queue.SimpleQueue[Exception | None]) -> None:
        """Download one file after the other; the last word is what went wrong, or None."""
        try:
            with open_client(self._model.token, self._stall_s) as client:
                while not self._stopped.is_set():
                    transfer = waiting.get_nowait()
                    with self._lock(transfer):
                        if transfer.target.exists():  # another process, or another file of the same content
                            transfer.done_bytes = transfer.size_bytes
                        else:
                            self._persist(transfer, client)
            ends.put(None)
        except (queue.Empty, StoppedError):
            ends.put(None)
        except Exception as exc:
            ends.put(exc)

    def _persist(self, transfer: FileTransfer, client: httpx.Client) -> None:
        """Ask for a file again as long as that gets on, or has failed a few times only."""
        num_failures = 0
        while True:
            before = transfer.done_bytes
            try:
                return transfer.go_on(client)
            except (WaitError, CorruptFileError, httpx.TransportError) as exc:
                problem = exc
            num_failures = 1 if transfer.done_bytes > before else num_failures + 1
            if num_failures >= MAX_TRIES:
                raise problem
            self._wait(transfer, problem, num_failures)

    def _wait(self, transfer: FileTransfer, problem: Exception, num_failures: int) -> None:
        """Say what is wrong, and wait before the next attempt."""
        delay = problem.delay_s if isinstance(problem, WaitError) else 0.0
        if delay > MAX_WAIT_S:
            raise problem
        self._note = f"{transfer.file.name}: {_in_words(problem, self._stall_s)}; asking again"
        logger.info("%s (attempt %d of %d)", self._note, num_failures + 1, MAX_TRIES)
        if self._stopped.wait(max(delay, FIRST_WAIT_S * 2**num_failures)):
            raise StoppedError

    @contextlib.contextmanager
    def _lock(self, transfer: FileTransfer) -> Iterator[None]:
        """Keep other processes from writing the same file; huggingface_hub takes the same lock."""
        while not self._stopped.is_set():
            lock = WeakFileLock(self._cache.lock_folder / f"{transfer.target.name}.lock", timeout=LOCK_WAIT_S)
            try:
                lock.__enter__()
            except TimeoutError:
                self._note = f"{transfer.file.name}: another program downloads it"
                continue
            try:
                yield
            finally:
                lock.__exit__(None, None, None)
            return
        raise StoppedError

    def _report(self, transfers: Sequence[FileTransfer]) -> None:
        """All of it last, so that the step that stays is the whole."""
        step = f"downloading {self._model.name}"
        running = [transfer for transfer in transfers if transfer.is_running]
        begun = [transfer for transfer in transfers if transfer.is_running or transfer.done_bytes]
        for transfer in begun if len(transfers) > 1 else ():
            report(f"{step}: {transfer.file.name}", done=transfer.done_bytes, total=transfer.size_bytes, unit="B")
        quiet_s = min((time.monotonic() - transfer.heard_at for transfer in running), default=0.0)
        if quiet_s < QUIET_S:
            self._note = "" if running else self._note
        elif not self._note:
            report(f"{step}: no byte for {quiet_s:.0f} s")
        if self._note:
            report(f"{step}: {self._note}")
        done = sum(transfer.done_bytes for transfer in transfers)
        report(step, done=done, total=sum(transfer.size_bytes for transfer in transfers), unit="B")

    def _unwritable(self, error: OSError) -> ModelLoadError:
        return ModelLoadError(
            f"{self._cache.folder} can't be written: {error.strerror or error}. Set HF_HOME to a folder that you can "
            "write to before Python starts."
        )

    def _kept(self, transfers: Sequence[FileTransfer]) -> str:
        done = _size(sum(transfer.done_bytes for transfer in transfers))
        total = _size(sum(transfer.size_bytes for transfer in transfers))
        return f"{done} of {total} are kept in {self._cache.folder}; run it again to go on from there."

    def _explained(self, failure: Exception, transfers: Sequence[FileTransfer]) -> Exception:
        kept = self._kept(transfers)
        if isinstance(failure, RefusedError):
            return explain(self._model.name, failure, self._model.token)
        if isinstance(failure, OSError) and failure.errno in NO_SPACE:
            return ModelLoadError(
                f"The disk became full while {self._model.name} was downloaded: {_size(free_disk_bytes())} are free. "
                f"{kept} {_more_room()}"
            )
        if isinstance(failure, OSError) and not isinstance(failure, CorruptFileError):
            return self._unwritable(failure)
        return ModelLoadError(
            f"The download of {self._model.name} from {endpoint()} was given up: {_in_words(failure, self._stall_s)}, "
            f"{MAX_TRIES} times in a row. {kept} A mirror is used if HF_ENDPOINT names it."
        )


def _in_words(problem: Exception, stall_s: float) -> str:
    if isinstance(problem, httpx.ReadTimeout | httpx.WriteTimeout):
        return f"no byte for {stall_s:g} s"
    if isinstance(problem, httpx.ReadError | httpx.RemoteProtocolError):
        return "the connection broke off"
    if isinstance(problem, httpx.ConnectTimeout | httpx.ConnectError):
        return f"no connection ({problem})"
    return str(problem).rstrip(".") or type(problem).__name__


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"


def _more_room() -> str:
    return (
        "Free some, or set HF_HOME to a folder on a larger disk before Python starts; move what is in "
        f"{Path(constants.HF_HOME)} there to keep it."
    )
