"""`describe --backend blip2`: a tiny BLIP-2 of random weights, saved and loaded offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    PreTrainedTokenizerFast,
)

from runner.config.sections import ClusterConfig
from runner.descriptions.blip2 import (
    Blip2Answerer,
    Blip2Settings,
    describe_batches,
    describe_images,
)
from runner.descriptions.images import hash_images
from runner.descriptions.prompts import load_prompt
from runner.descriptions.store import DescriptionStore
from runner.lifelong import main
from tasks.text.descriptions import read_descriptions
from tests.runner.descriptions.endpoint import PART_ANSWERS

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "man", "short", "black", "hair", "shirt", "jeans", "?"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("models") / "tiny-blip2")
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip
    image_processor = BlipImageProcessor(size={"height": 16, "width": 16})
    processor = Blip2Processor(image_processor, tokenizer, num_query_tokens=4)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**small, "intermediate_size": 16, "image_size": 16, "patch_size": 8},
        qformer_config={
            **small, "intermediate_size": 16, "vocab_size": 32, "encoder_hidden_size": 16,
        },
        text_config={
            **small, "model_type": "opt", "vocab_size": len(tokenizer), "ffn_dim": 16,
            "word_embed_proj_dim": 16, "max_position_embeddings": 160, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2,
        },
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    torch.manual_seed(0)
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def command(tiny: str, images_folder: Path, output: Path, *further: str) -> list[str]:
    return [
        "describe", "--data", str(images_folder), "--backend", "blip2", "--model", tiny,
        "--output", str(output), "--batch-size", "5", "--max-tries", "2", *further,
    ]  # fmt: skip


def settings(tiny: str) -> Blip2Settings:
    return Blip2Settings(tiny, "q", "parts", batch_size=2, max_tries=1)


def test_answers_exclude_the_question_and_do_not_depend_on_the_batch(tiny: str) -> None:
    answerer = Blip2Answerer(settings(tiny))
    images = [Image.new("RGB", (8, 16), (number * 60, 0, 200)) for number in range(4)]
    together = answerer.answer(images, "Is this a man?", 1)
    assert together == [answerer.answer([image], "Is this a man?", 1)[0] for image in images]
    assert all(set(answer.split()) <= {*WORDS, "<image>"} for answer in together)
    assert answerer.answer(images, "Is this a man?", 2) == answerer.answer(
        images, "Is this a man?", 2
    ), "drawn answers differ from run to run"


def test_every_image_has_a_row_in_this_process(
    tiny: str, images_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    assert main(command(tiny, images_folder, kept, "cluster.num_workers=0")) == 1
    output = capsys.readouterr().out
    assert (
        "0 of 12 images are described (12 requested in this job), 12 failed, 0 remaining" in output
    )
    assert "bad answer" in output
    assert read_descriptions(kept / "people_description.txt").parts == {}


@pytest.mark.slow
def test_actors_give_the_same_rows(
    ray_session: None, tiny: str, images_folder: Path, tmp_path: Path
) -> None:
    images = hash_images(sorted(images_folder.iterdir()))
    here = list(describe_batches(images, settings(tiny), ClusterConfig(num_workers=0)))
    further = ("--max-tries", "1", "cluster.num_workers=1")
    assert main(command(tiny, images_folder, tmp_path / "kept", *further)) == 1
    with DescriptionStore(tmp_path / "kept") as store:
        there = store.rows(f"{load_prompt('parts').version}/blip2/tiny-blip2")
    assert len(there) == 12
    assert {image: replace(row, asked="q") for image, row in there.items()} == {
        row.image: row for row in here
    }


def test_only_invalid_answers_are_asked_again(images_folder: Path, tmp_path: Path) -> None:
    (images_folder / "03.png").write_bytes(b"nothing")
    images = hash_images(sorted(images_folder.iterdir()))
    names = {question.text: question.name for question in load_prompt("parts").questions}
    asked: Counter[tuple[str, int]] = Counter()

    def answer(batch: Sequence[Image.Image], question: str, number: int) -> list[str]:
        name = names[question]
        asked[name, number] += len(batch)
        good = PART_ANSWERS[name]
        is_bad = name == "upper" and number == 1
        return ["" if is_bad and at < 4 else good for at in range(len(batch))]

    rows = describe_images(images, load_prompt("parts"), answer, "q", 3)
    assert [row.image for row in rows] == [image.sha256 for image in images]
    assert [row.num_tries for row in rows] == [2, 2, 2, 0, 2] + [1] * 7
    assert rows[3].reason.startswith("unreadable image")
    assert sum(row.is_done for row in rows) == 11
    assert (asked["upper", 1], asked["upper", 2], asked["upper", 3]) == (11, 4, 0)


def test_second_job_has_nothing_to_ask(
    tiny: str, images_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = command(tiny, images_folder, tmp_path, "cluster.num_workers=0")
    main(again)
    capsys.readouterr()
    assert main(again) == 1
    assert "(0 requested in this job), 12 failed" in capsys.readouterr().out
    with DescriptionStore(tmp_path) as store:
        assert len(store.rows(f"{load_prompt('parts').version}/blip2/tiny-blip2")) == 12


def test_other_models_are_rejected(tmp_path: Path, images_folder: Path, capsys) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for model, message in (
        (str(tmp_path), "is of type 'bert'"),
        (str(tmp_path / "none" / "no" / "such"), "expected the folder or Hugging Face name"),
    ):
        assert main(command(model, images_folder, tmp_path / "kept")) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "kept").exists()


def test_empty_job(tiny: str) -> None:
    assert list(describe_batches([], settings(tiny), ClusterConfig(num_workers=0))) == []
    assert describe_images([], load_prompt("parts"), lambda *_: [], "q", 2) == []
