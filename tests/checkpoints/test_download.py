"""Downloads from a hub on this machine: whatever breaks them off, they go on from there, or say what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading

import huggingface_hub
import pytest

import llmapi_kit as kit
from llmapi_kit.checkpoints import download, file_transfer
from llmapi_kit.checkpoints.download import download_model, find_folder
from llmapi_kit.checkpoints.hub_cache import ModelCache, cached_folder, cached_models
from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.errors import ConfigError, ModelLoadError, ModelNotFoundError, ModelTooLargeError, UnsupportedModelError
from llmapi_kit.progress import reporting
from tests.checkpoints.fake_hub import GIB, Repository

pytestmark = pytest.mark.slow

SMALL = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b'{"version": "1.0"}'}
CONTENT = bytes(range(256)) * 4096  # 1 MiB
HALF = len(CONTENT) // 2
NAME = "owner/name"


def nothing(folder, size):
    pass


@pytest.fixture
def repository(hub, monkeypatch):
    """A model with one file of weights, and no waits between attempts."""
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.0)
    found = hub.repositories[NAME] = Repository({**SMALL, "model.safetensors": CONTENT, "model.py": 5, "model.bin": 9})
    return found


def get(stall_s=20.0):
    return download_model(NAME, stall_s, nothing)


def weights():
    return cached_folder(NAME).joinpath("model.safetensors").read_bytes()


def test_a_model_is_downloaded_once_and_others_find_it(repository, hub):
    folder = get()
    assert weights() == CONTENT
    assert {path.name for path in folder.iterdir()} == {*SMALL, "model.safetensors"}
    assert huggingface_hub.try_to_load_from_cache(NAME, "model.safetensors") == str(folder / "model.safetensors")
    assert huggingface_hub.snapshot_download(NAME, local_files_only=True) == str(folder)
    num_asked = len(hub.asked)
    assert get() == folder
    assert len(hub.asked) == num_asked


def test_a_version_is_downloaded_by_its_name_beside_the_main_one_and_found_again(repository, hub):
    other = Repository({**SMALL, "model.safetensors": CONTENT[::-1]}, version="older")
    repository.revisions = {"v1": other, other.commit: other}
    main = get()
    older = download_model(NAME, 20.0, nothing, "v1")
    assert older.name == other.commit != main.name
    assert older.joinpath("model.safetensors").read_bytes() == CONTENT[::-1]
    assert cached_folder(NAME) == main
    num_asked = len(hub.asked)
    assert [download_model(NAME, 20.0, nothing, each) for each in ("v1", other.commit)] == [older, older]
    assert len(hub.asked) == num_asked
    assert huggingface_hub.snapshot_download(NAME, revision="v1", local_files_only=True) == str(older)


@pytest.mark.parametrize(
    ("name", "revision", "error", "words"),
    [
        (NAME, "v2", ModelNotFoundError, "has no revision 'v2'"),
        (NAME, "../../x", ConfigError, "a branch, a tag or a commit"),
        (NAME, 3, ConfigError, "revision='3' is not known"),
        ("pocket", "v1", ConfigError, "goes with models of the hub"),
    ],
)
def test_a_version_that_is_none_says_so(name, revision, error, words, repository):
    with pytest.raises(error, match=words):
        kit.load(name, revision=revision)


def test_a_model_in_a_folder_of_its_repository_is_downloaded_without_the_rest(repository, hub):
    inner = {f"small/it/{name}": content for name, content in {**SMALL, "model.safetensors": CONTENT[::-1]}.items()}
    repository.files |= {**inner, "small/it/deeper/model.safetensors": 5}
    folder = download_model(NAME, 20.0, nothing, subfolder="small/it")
    assert folder.joinpath("model.safetensors").read_bytes() == CONTENT[::-1]
    assert {path.name for path in folder.iterdir()} == {*SMALL, "model.safetensors"}
    assert cached_folder(NAME) is None
    num_asked = len(hub.asked)
    assert download_model(NAME, 20.0, nothing, subfolder="small/it") == folder
    assert len(hub.asked) == num_asked
    with pytest.raises(ModelNotFoundError, match="has no folder 'large'; it has small/it, small/it/deeper"):
        download_model(NAME, 20.0, nothing, subfolder="large")


@pytest.mark.parametrize("subfolder", ["../up", "/etc", "a/../b", 3])
def test_a_folder_outside_a_repository_is_refused(subfolder):
    with pytest.raises(ConfigError, match="subfolder="):
        kit.load(NAME, subfolder=subfolder)


def test_a_folder_of_this_machine_has_no_folder_within():
    with pytest.raises(ConfigError, match="Name the folder itself: 'pocket/small'"):
        kit.load("pocket", subfolder="small")


def test_code_is_downloaded_where_it_is_wanted_also_beside_what_is_there(repository, hub):
    repository.files |= {
        "config.json": json.dumps({"auto_map": {"AutoModelForCausalLM": "model.Own"}}).encode(),
        "model.py": b"own = 1",
        "inner/more.py": 7,
    }
    folder = get()
    assert not (folder / "model.py").exists()
    assert download_model(NAME, 20.0, nothing, has_code=True) == folder
    assert (folder / "model.py").read_bytes() == b"own = 1"
    num_asked = len(hub.asked)
    assert download_model(NAME, 20.0, nothing, has_code=True) == folder
    assert len(hub.asked) == num_asked


def test_contents_that_are_there_are_not_downloaded_again(repository, hub):
    folder = get()
    shutil.rmtree(ModelCache(NAME).folder / "refs")
    hub.asked.clear()
    assert get() == folder
    assert [path for _, path, _, _ in hub.asked] == [f"/api/models/{NAME}"]


@pytest.mark.parametrize("fault", ["break_after", "stall_after"])
def test_a_download_that_breaks_off_or_stalls_goes_on_from_the_last_byte(repository, hub, fault):
    getattr(hub.faults, fault).append(HALF)
    steps = []
    with reporting(lambda progress: steps.append(progress.step)):
        get(stall_s=0.2 if fault == "stall_after" else 20)
    assert weights() == CONTENT
    assert hub.ranges() == [None, f"bytes={HALF}-"]


def test_a_stall_is_said_while_it_lasts(repository, hub, monkeypatch):
    monkeypatch.setattr(download, "QUIET_S", 0.0)
    monkeypatch.setattr(download, "REPORT_EVERY_S", 0.01)
    hub.faults.stall_after.append(HALF)
    said = threading.Event()

    def listen(progress):
        if hub.faults.stalled.is_set() and "no byte for" in progress.step:
            said.set()
            hub.faults.released.set()

    with reporting(listen):
        get()
    assert said.is_set()
    assert weights() == CONTENT


def test_a_hub_that_ignores_ranges_is_read_from_the_beginning(repository, hub):
    hub.faults.break_after.append(HALF)
    hub.faults.ignore_range = True
    get()
    assert weights() == CONTENT


def test_a_busy_hub_is_asked_again_when_it_says(repository, hub, monkeypatch):
    hub.faults.statuses += [(429, {"Retry-After": "0.01"}), (503, {}), (429, {"Retry-After": "tomorrow"})]
    monkeypatch.setattr(file_transfer, "DEFAULT_WAIT_S", 0.01)
    get()
    assert weights() == CONTENT


def test_a_content_that_is_not_what_the_hub_told_of_is_thrown_away_and_asked_for_again(repository, hub):
    hub.faults.corrupt.append(True)
    get()
    assert weights() == CONTENT
    assert hub.ranges() == [None, None]


def test_a_download_that_goes_on_failing_is_given_up_with_what_is_kept(repository, hub):
    hub.faults.break_after += [HALF] + [0] * 10
    with pytest.raises(ModelLoadError, match=r"given up: .* 5 times.*0\.5 MiB of 1\.0 MiB are kept.*HF_ENDPOINT"):
        get()
    assert cached_folder(NAME) is None
    (found,) = cached_models()
    assert (found.name, found.is_complete) == (NAME, False)
    assert found.size_bytes >= HALF
    hub.faults.break_after.clear()
    get()
    assert hub.ranges()[-1] == f"bytes={HALF}-"


def test_a_hub_that_asks_to_wait_for_long_is_not_waited_for(repository, hub):
    hub.faults.statuses.append((429, {"Retry-After": "3600"}))
    with pytest.raises(ModelLoadError, match="asks to wait 3600 s"):
        get()


def test_an_interrupt_leaves_what_is_there_and_the_next_call_goes_on(repository, hub):
    hub.faults.stall_after.append(HALF)

    class Interrupted(BaseException):
        """As KeyboardInterrupt, but nobody else's."""

    class Interrupting:
        """A reporter that is interrupted while it is called, as Ctrl-C may."""

        def report(self, step, **how):
            if how.get("done", 0) and how["done"] >= HALF:
                raise Interrupted

    token = download_context(Interrupting())
    try:
        with pytest.raises(Interrupted):
            get()
    finally:
        token()
    assert not [thread for thread in threading.enumerate() if thread.name == "llmapi_kit download"]
    hub.faults.released.set()
    get()
    assert weights() == CONTENT
    assert hub.ranges() == [None, f"bytes={HALF}-"]


def test_a_download_can_be_stopped_from_another_thread_and_keeps_what_is_there(repository, hub):
    hub.faults.stall_after.append(HALF)

    def listen(progress):
        if (progress.done or 0) >= HALF:
            threading.Thread(target=download.stop_download, args=(NAME,)).start()

    with reporting(listen), pytest.raises(ModelLoadError, match=r"was stopped.*are kept"):
        get()
    assert not download.stop_download(NAME)
    hub.faults.released.set()
    get()
    assert hub.ranges() == [None, f"bytes={HALF}-"]


def download_context(reporter):
    from llmapi_kit import progress

    token = progress._reporter.set(reporter)
    return lambda: progress._reporter.reset(token)


def test_several_files_are_told_each_and_together(repository, hub):
    names = [f"model-{number}.safetensors" for number in (1, 2)]
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    hub.repositories[NAME] = Repository(
        {**SMALL, "model.safetensors.index.json": index, **dict.fromkeys(names, CONTENT)}
    )
    heard = []
    with reporting(heard.append):
        get()
    whole = [each for each in heard if each.step == f"downloading {NAME}"]
    assert (whole[-1].done, whole[-1].unit) == (whole[-1].total, "B")
    assert weights_of(names) == [CONTENT, CONTENT]


def weights_of(names):
    return [(cached_folder(NAME) / name).read_bytes() for name in names]


def test_a_gated_model_says_what_to_do_and_loads_with_the_token(repository, hub, monkeypatch):
    repository.gated, repository.tokens = "auto", {"hf_good"}
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(ModelNotFoundError, match=f"may not read it: accept its terms at https://huggingface.co/{NAME}"):
        get()
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    get()
    assert weights() == CONTENT


def test_a_disk_that_is_too_small_is_said_with_the_numbers_before_anything_is_downloaded(repository, hub, monkeypatch):
    hub.repositories[NAME].files["model.safetensors"] = 20 * GIB
    monkeypatch.setattr(download, "free_disk_bytes", lambda: 3 * GIB)
    with pytest.raises(ModelLoadError, match=r"20\.0 GiB.* 3\.0 GiB free.*HF_HOME"):
        get()
    assert [path for _, path, _, _ in hub.asked] == [f"/api/models/{NAME}"]


def test_a_disk_that_becomes_full_is_said_with_what_is_missing(repository, hub, monkeypatch):
    def fill(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_transfer.os, "replace", fill)
    with pytest.raises(ModelLoadError, match=r"disk became full.* are free.*kept.*HF_HOME"):
        get()


def test_what_would_not_fit_is_known_before_the_weights_are_downloaded(repository, hub):
    def refuse(folder, size):
        assert (folder / "config.json").read_bytes() == SMALL["config.json"]
        assert size == len(CONTENT)
        raise ModelLoadError("too large")

    with pytest.raises(ModelLoadError, match="too large"):
        download_model(NAME, 20, refuse)
    assert hub.ranges() == []


def test_another_process_s_download_is_waited_for(repository, hub, monkeypatch):
    monkeypatch.setattr(download, "LOCK_WAIT_S", 0.01)
    cache = ModelCache(NAME)
    cache.lock_folder.mkdir(parents=True)
    digest = repository.sibling("model.safetensors")["lfs"]["sha256"]
    lock = download.WeakFileLock(cache.lock_folder / f"{digest}.lock")
    lock.__enter__()
    waited = threading.Event()

    def listen(progress):
        if "another program" in progress.step and not waited.is_set():
            waited.set()
            lock.__exit__(None, None, None)

    with reporting(listen):
        get()
    assert waited.is_set()


def test_something_beside_a_model_comes_from_the_hub_and_without_it_from_the_cache(repository, hub, monkeypatch):
    folder = find_folder(NAME, "tokenizer", ("tokenizer*",), 20)
    assert [path.name for path in folder.iterdir()] == ["tokenizer.json"]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert find_folder(NAME, "tokenizer", ("tokenizer*",), 20) == folder
    with pytest.raises(ModelNotFoundError, match="tokenizer other/name is not a folder here"):
        find_folder("other/name", "tokenizer", ("tokenizer*",), 20)


@pytest.fixture
def pocket(repository, hub):
    """The pocket model as one of the hub."""
    files = {path.name: path.read_bytes() for path in POCKET_DIR.iterdir()}
    hub.repositories["owner/pocket"] = Repository(files)
    yield "owner/pocket"
    kit.stop_all()


def test_a_model_of_the_hub_loads_through_the_kit_and_tells_its_steps(pocket, hub):
    hub.faults.break_after.append(HALF)
    steps = []
    with reporting(lambda progress: steps.append(progress.step)):
        model = kit.load(pocket, max_slots=2)
    assert model.name == pocket
    assert model.ask("Hello!", max_tokens=4, temperature=0)
    order = [f"asking the hub for {pocket}", f"downloading {pocket}", "reading weights", "preparing the engine"]
    assert [step for step in dict.fromkeys(steps) if step in order] == order
    assert "README.md" not in {path.name for path in cached_folder(pocket).iterdir()}


@pytest.mark.parametrize(
    ("config", "size", "kind", "message"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, 2000, UnsupportedModelError, "BertForMaskedLM"),
        (None, 500 * GIB, ModelTooLargeError, "was not downloaded.*not enough"),
    ],
    ids=["another kind", "too large"],
)
def test_a_model_that_cannot_be_used_is_refused_before_its_weights_are_asked_for(
    pocket, hub, monkeypatch, config, size, kind, message
):
    monkeypatch.setattr(download, "free_disk_bytes", lambda: 1000 * GIB)
    files = hub.repositories[pocket].files
    files["model.safetensors"] = size
    if config is not None:
        files["config.json"] = json.dumps(config).encode()
    with pytest.raises(kind, match=message):
        kit.load(pocket)
    assert hub.ranges() == []


def test_a_cache_that_cannot_be_written_is_said_with_what_to_set(repository, hub, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    monkeypatch.setattr(download, "free_disk_bytes", lambda: GIB * 10)
    with pytest.raises(ModelLoadError, match=r"can't be written.*HF_HOME"):
        get()


def test_a_model_that_is_half_there_is_completed_by_the_next_load(pocket, hub):
    hub.faults.break_after += [HALF] + [0] * 10
    with pytest.raises(ModelLoadError, match="run it again"):
        kit.load(pocket)
    hub.faults.break_after.clear()
    assert kit.load(pocket).info.num_parameters > 0
    assert hub.ranges()[-1] == f"bytes={HALF}-"


@pytest.mark.parametrize("written", ["poket", "pockt", "moc"])
def test_a_name_that_is_written_wrong_gets_the_one_that_was_meant(hub, written):
    with pytest.raises(ModelNotFoundError, match=r"Did you mean '(pocket|mock)'\?"):
        kit.load(written)
