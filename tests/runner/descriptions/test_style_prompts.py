"""`describe --style`: dual texts in styles found in people's captions."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from runner.descriptions.images import hash_images
from runner.descriptions.style_prompts import StyleSettings, find_styling, read_captions
from runner.lifelong import main
from tasks.benchmarks import BenchmarkConfig
from tasks.synthetic.captions import write_captions
from tasks.synthetic.domains import training_domains
from tasks.synthetic.facts import facts_of
from tasks.synthetic.studio import person_of
from tasks.text.masking import mask
from tasks.text.paraphrase import fill_template
from tests.runner.descriptions.endpoint import DUAL_ANSWERS, Endpoint, Handler

Describe = Callable[..., int]

TFIDF = ("--style-encoder", "tfidf")
SIZES = [
    f"benchmark.synthetic.{each}"
    for each in (
        "num_seen_domains=2", "num_unseen_domains=0", "num_train_identities=12",
        "num_test_identities=4", "num_cameras=2", "supersampling=1",
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def captions() -> list[str]:
    domain, rng = training_domains()[0], np.random.default_rng(0)
    people = [person_of(0, domain, number) for number in range(1, 41)]
    return [each for person in people * 3 for each in write_captions(person, rng).captions]


@pytest.fixture
def file(captions: list[str], tmp_path: Path) -> Path:
    """Captions as a text, one a line."""
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(captions), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


def describe_drawn(root: Path, output: Path, *further: str) -> int:
    command = ["describe", "--dataset", "plaza", "--backend", "attributes", "--prompt", "dual"]
    return main([*command, "--output", str(output), *further, f"benchmark.root={root}", *SIZES])


def entries(output: Path) -> dict[str, dict[str, str]]:
    listed = json.loads((output / "plaza_dual.json").read_text())
    return {each["file_path"]: each for each in listed}


# ---- synthetic people


def test_texts_are_correct_and_in_the_style_of_their_image(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--style", "kmeans", "--num-styles", "3", "--style-encoder", "tfidf")
    assert describe_drawn(root, tmp_path, *asked) == 0
    assert "3 styles found by kmeans in 96 captions (" in capsys.readouterr().err
    (folder,) = root.glob("synthetic-*/plaza")
    people = json.loads((folder / "plaza_attributes.json").read_text())
    settings = BenchmarkConfig.model_validate(
        {"root": str(root), "synthetic": dict(each.split(".")[-1].split("=") for each in SIZES)}
    )
    styling = find_styling(
        StyleSettings("kmeans", encoder="tfidf", num_styles=3), "plaza", settings
    )
    found = entries(tmp_path)
    hashed = {each.path.name: each.sha256 for each in hash_images(list(folder.rglob("*.jpg")))}
    assert len(found) == len(hashed) == 64
    for path, entry in found.items():
        sha256 = hashed[Path(path).name]
        facts = facts_of(people[str(int(Path(path).name[:4]))])
        expected = fill_template(styling.template_of(sha256), facts)
        assert (entry["identity"], entry["clothing"]) == expected
        assert entry["style"] == str(styling.style_of(sha256))
    assert len({each["identity"].split()[0] for each in found.values()}) == 2
    assert len({each["clothing"].split()[0] for each in found.values()}) == 3
    (told,) = tmp_path.glob("styles-kmeans-*.json")
    assert [each["style"] for each in json.loads(told.read_text())] == ["0", "1", "2"]


def test_styles_use_training_captions_only(root: Path) -> None:
    settings = BenchmarkConfig.model_validate(
        {"root": str(root), "synthetic": dict(each.split(".")[-1].split("=") for each in SIZES)}
    )
    (folder,) = root.glob("synthetic-*/plaza")
    listed = json.loads((folder / "plaza_captions.json").read_text())
    train = [each for entry in listed if entry["split"] == "train" for each in entry["captions"]]
    assert len(train) < sum(len(entry["captions"]) for entry in listed)
    for source in ("plaza", str(folder / "plaza_captions.json")):
        assert sorted(read_captions(source, settings)) == sorted(train)


def test_other_styles_change_the_source(root: Path, tmp_path: Path, capsys) -> None:
    def asked(*further: str) -> int:
        assert describe_drawn(root, tmp_path, *further) == 0
        (number,) = re.findall(r"\((\d+) requested in this job\)", capsys.readouterr().out)
        return int(number)

    assert asked("--style", "dbscan") == 64
    assert asked("--style", "dbscan") == 0
    assert asked() == 64
    assert asked("--style", "dbscan", "--style-seed", "1") == 64
    assert asked("--style", "dbscan", "--captions", "station") == 64
    assert asked("--style", "dbscan", "--style-encoder", "tfidf") == 64
    assert asked("--style", "dbscan") == 0


# ---- an endpoint


def test_request_has_exemplars_of_the_style(
    describe: Describe,
    endpoint: Endpoint,
    captions: list[str],
    file: Path,
    images_folder: Path,
    exported: Callable[[], list[dict[str, str]]],
) -> None:
    endpoint.answers = DUAL_ANSWERS
    asked = ("--prompt", "dual", "--style", "kmeans", "--num-styles", "3", "--captions", str(file))
    asked += ("--style-encoder", "tfidf")
    assert describe(*asked) == 0
    masked = {mask(each) for each in captions}
    shown = [
        re.findall(r'^- "(?!identity|clothing)(.*)"$', each, re.M) for each in endpoint.prompts
    ]
    assert {len(each) for each in shown} == {4}
    assert masked.issuperset(text for each in shown for text in each)
    assert not set(captions).intersection(text for each in shown for text in each)
    firsts = Counter(each[0].split()[0] for each in shown)
    assert len(firsts) > 1, "all images were asked for in one style"
    styles = Counter(each["style"] for each in exported())
    assert sorted(styles.values()) == sorted(firsts.values())
    assert {each["identity"] for each in exported()} == {DUAL_ANSWERS["identity"]}
    assert describe(*asked) == 0
    assert set(endpoint.asked.values()) == {1}, "a second job asked again"
    assert describe(*asked, "--style-seed", "1") == 0
    assert set(endpoint.asked.values()) == {2}
    assert len(endpoint.asked) == len(list(images_folder.iterdir()))


def test_resumed_job_sends_the_same_requests(
    describe: Describe, endpoint: Endpoint, file: Path
) -> None:
    endpoint.answers = DUAL_ANSWERS
    asked = ("--prompt", "dual", "--style", "dbscan", "--captions", str(file), *TFIDF)
    assert describe(*asked, "--max-requests", "5") == 1
    assert describe(*asked) == 0
    assert set(endpoint.answered.values()) == {1}
    stopped = sorted(endpoint.prompts)
    assert describe(*asked, "--output", str(file.parent / "again")) == 0
    assert sorted(endpoint.prompts) == sorted(stopped * 2)


def test_retry_keeps_the_style(describe: Describe, endpoint: Endpoint, file: Path) -> None:
    endpoint.answers = DUAL_ANSWERS

    def fault(handler: Handler, image: str, attempt: int) -> bool:
        if attempt == 1:
            handler.answer("")
        return attempt == 1

    endpoint.fault = fault
    asked = ("--prompt", "dual", "--style", "kmeans", "--captions", str(file), *TFIDF)
    assert describe(*asked, "--concurrency", "1") == 0
    first, second = endpoint.prompts[::2], endpoint.prompts[1::2]
    assert [each.partition("\nAn earlier answer")[0] for each in second] == first


# ---- encoders and captions


def test_masked_captions_are_embedded_by_a_text_tower(
    captions: list[str], file: Path, tmp_path: Path
) -> None:
    tower = StyleSettings("agglomerative", str(file), encoder="tiny-clip", num_styles=3)
    found = find_styling(tower, "people", BenchmarkConfig()).styles
    assert sum(each.size for each in found.styles) == len(captions)
    plain = find_styling(
        StyleSettings("agglomerative", str(file), encoder="tfidf", num_styles=3),
        "people",
        BenchmarkConfig(),
    ).styles
    assert found.digest != plain.digest
    assert (found.encoder, plain.encoder) == ("tiny-clip:warm", "tfidf")
    again = replace(plain, encoder=found.encoder, weights_sha256=found.weights_sha256)
    assert again.digest != plain.digest, "texts of another encoder would be reused"


def test_a_text_tower_of_a_local_folder(file: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1,
                       "head_width": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2,
                     "layers": 1},
    }  # fmt: skip
    folder = tmp_path / "tower"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    settings = StyleSettings("kmeans", str(file), encoder=str(folder))
    with pytest.raises(ValueError, match=r"--style-encoder .*tower: "):
        find_styling(settings, "people", BenchmarkConfig())
    clip = open_clip.CLIP(**config)
    torch.save(clip.state_dict(), folder / "open_clip_pytorch_model.bin")
    styles = find_styling(settings, "people", BenchmarkConfig()).styles
    assert styles.encoder == "tower"
    assert len(styles.weights_sha256) == 64
    assert styles.silhouette is not None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", "[{", "expected JSON"),
        ("c.json", "{}", "expected a list of entries, got dict"),
        ("c.json", '[{"captions": ["A man."]}, {"caption": "x"}]', "entry 2: expected captions"),
        ("c.json", '[{"captions": [1]}]', "entry 1: expected captions"),
        ("c.json", '[{"captions": ["A man."], "split": "test"}]', "no training captions"),
        ("c.json", '[{"captions": []}]', "no training captions"),
        ("c.txt", "\n \n", "no training captions"),
        ("c.txt", "...\n", "none with a word in it"),
        ("c.txt", "A man.\nHe walks.", r"num_styles: expected at most the number .* 2; got 8"),
    ],
)
def test_sources_without_captions(
    describe: Describe, endpoint: Endpoint, tmp_path: Path, name: str, content: str, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / name).write_text(content)
    asked = ("--prompt", "dual", "--style", "kmeans", "--captions", str(tmp_path / name), *TFIDF)
    status = describe(*asked)
    output = " ".join(capsys.readouterr().err.split())
    assert status == 2
    assert re.search(message, output), output
    assert not endpoint.asked
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--style", "dbscam"], "--style: expected one of none, random, .*did you mean dbscan?"),
        (["--style", "dbscan", "--prompt", "parts"], "only --prompt dual"),
        (["--style", "dbscan", "--backend", "blip2"], "blip2 answers one short question"),
        (["--style", "dbscan", "--style-eps", "3"], "eps: expected a cosine distance"),
        (["--captions", "plaza"], r"--captions: expected --style METHOD"),
        (["--style", "dbscan"], "a folder of images, which has no captions"),
        (["--style", "dbscan", "--captions", "nowhere.json"], "got 'nowhere.json'"),
        (["--style", "none", "--captions", "plaza", "--style-encoder", "ViT-B-31"],
         "--style-encoder ViT-B-31:openai: architecture: .*did you mean"),
        (["--style", "none", "--captions", "plaza", "--style-encoder", "tiny-clip:nowhere.pt"],
         "--style-encoder tiny-clip:nowhere.pt: weights: expected an existing file"),
    ],
)  # fmt: skip
def test_invalid_style_options(
    describe: Describe, endpoint: Endpoint, root: Path, arguments: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert describe("--prompt", "dual", *arguments, f"benchmark.root={root}", *SIZES) == 2
    output = " ".join(capsys.readouterr().err.split())
    assert re.search(message, output), output
    assert not endpoint.asked
