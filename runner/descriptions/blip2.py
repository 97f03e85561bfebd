"""Description of images by BLIP-2, in this process or by actors of Ray Data.

Unlike for a chat endpoint, Ray Data is suitable here: each actor holds one copy of the model for
the whole job, and the GPUs of a cluster process batches as they become free.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from runner.config.sections import ClusterConfig
from runner.descriptions.images import HashedImage
from runner.descriptions.prompts import BadAnswerError, Prompt, load_prompt
from runner.descriptions.store import Row
from tasks.loading.image_files import UnreadableImageError, open_rgb

MAX_NEW_TOKENS = 80
_BATCHES_PER_BLOCK = 4

Answer = Callable[[Sequence[Image.Image], str, int], list[str]]
"""(images, question, number of the try from 1) -> one answer per image."""


@dataclass(frozen=True, slots=True)
class Blip2Settings:
    """Model and settings of a job.

    Attributes:
        model: local folder, or name on the Hugging Face hub.
        source: key of the rows in the store: prompt version, backend and model.
        prompt: name of the prompt.
        batch_size: images per batch.
        max_tries: answers to validate before an image is marked as failed.
        use_gpu: compute on a GPU in half precision, otherwise on CPUs.
    """

    model: str
    source: str
    prompt: str
    batch_size: int = 32
    max_tries: int = 3
    use_gpu: bool = False


def check_model(model: str) -> None:
    """Checks that a model is a BLIP-2.

    Raises:
        ValueError: The folder or name does not exist, or the model is of another type.
    """
    from transformers import AutoConfig

    try:
        model_type = AutoConfig.from_pretrained(model).model_type
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--model: expected the folder or Hugging Face name of a BLIP-2, got {model!r} "
            f"({str(error).splitlines()[0][:160]})"
        ) from error
    if model_type != "blip-2":
        raise ValueError(f"--model: expected a BLIP-2, but {model!r} is of type {model_type!r}")


def describe_batches(
    images: Sequence[HashedImage], settings: Blip2Settings, cluster: ClusterConfig
) -> Iterator[Row]:
    """Yields a row for every image, as batches are completed.

    Args:
        images: images to describe.
        settings: model and settings.
        cluster: `num_workers` actors of Ray Data, which need a connection to Ray; 0 = this process.
            A killed job loses up to four batches per actor.
    """
    if cluster.num_workers == 0:
        answerer = Blip2Answerer(settings)
        for start in range(0, len(images), settings.batch_size):
            batch = images[start : start + settings.batch_size]
            yield from (Row(**json.loads(text)) for text in answerer(_columns(batch))["row"])
        return
    import ray.data

    images_per_block = _BATCHES_PER_BLOCK * settings.batch_size
    items = [{"path": str(image.path.absolute()), "sha256": image.sha256} for image in images]
    # Small blocks, because rows are returned and stored block by block.
    dataset = ray.data.from_items(items, override_num_blocks=-(-len(items) // images_per_block))
    described = dataset.map_batches(
        Blip2Answerer,
        fn_constructor_args=(settings,),
        batch_size=settings.batch_size,
        compute=ray.data.ActorPoolStrategy(size=cluster.num_workers),
        num_gpus=1 if settings.use_gpu else 0,
        num_cpus=1,
    )
    for item in described.iter_rows():
        yield Row(**json.loads(item["row"]))


def _columns(images: Sequence[HashedImage]) -> dict[str, np.ndarray]:
    return {
        "path": np.array([str(image.path) for image in images], dtype=object),
        "sha256": np.array([image.sha256 for image in images], dtype=object),
    }


class Blip2Answerer:
    """Holds one copy of the model; maps a batch of columns to rows in JSON."""

    def __init__(self, settings: Blip2Settings) -> None:
        import torch
        from transformers import AutoProcessor, Blip2ForConditionalGeneration

        self._settings = settings
        self._prompt = load_prompt(settings.prompt)
        self._device = "cuda" if settings.use_gpu else "cpu"
        dtype = torch.float16 if settings.use_gpu else torch.float32
        self._processor: Any = AutoProcessor.from_pretrained(settings.model)
        model: Any = Blip2ForConditionalGeneration.from_pretrained(settings.model, dtype=dtype)
        self._model = model.to(self._device).eval()

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Maps the columns `path` and `sha256` to the column `row`."""
        paths = zip(batch["path"], batch["sha256"], strict=True)
        images = [HashedImage(Path(path), str(sha256)) for path, sha256 in paths]
        rows = describe_images(
            images, self._prompt, self.answer, self._settings.source, self._settings.max_tries
        )
        return {"row": np.array([json.dumps(asdict(row)) for row in rows], dtype=object)}

    def answer(self, images: Sequence[Image.Image], question: str, number: int) -> list[str]:
        """Generates answers: greedy decoding at the first try, then sampling."""
        import torch

        # All texts of a batch have the same length, so no padding is needed.
        text = [f"Question: {question} Answer:"] * len(images)
        inputs = self._processor(images=list(images), text=text, return_tensors="pt")
        inputs = inputs.to(self._device, self._model.dtype)
        sampling = {"do_sample": True, "temperature": 0.7} if number > 1 else {"do_sample": False}
        torch.manual_seed(number)
        tokens = self._model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **sampling)
        if not self._model.config.text_config.is_encoder_decoder:
            tokens = tokens[
                :, inputs["input_ids"].shape[1] :
            ]  # decoder-only models repeat the question
        return [each.strip() for each in self._processor.batch_decode(tokens, True)]


def describe_images(
    images: Sequence[HashedImage], prompt: Prompt, answer: Answer, source: str, max_tries: int
) -> list[Row]:
    """Describes images and returns their rows in the same order.

    Asks all questions about all images, and asks again for images with invalid answers.
    """
    rows: dict[int, Row] = {}
    opened: dict[int, Image.Image] = {}
    for at, image in enumerate(images):
        try:
            opened[at] = open_rgb(image.path)
        except UnreadableImageError as error:
            reason = f"unreadable image: {error}"
            rows[at] = Row(image.sha256, source, {}, reason, num_tries=0)
    for number in range(1, max_tries + 1):
        missing = [at for at in opened if at not in rows or not rows[at].is_done]
        if not missing:
            break
        batch = [opened[at] for at in missing]
        columns = [answer(batch, question.text, number) for question in prompt.questions]
        for at, answers in zip(missing, zip(*columns, strict=True), strict=True):
            named = {
                question.name: text
                for question, text in zip(prompt.questions, answers, strict=True)
            }
            rows[at] = _row(images[at].sha256, source, prompt, named, number)
    return [rows[at] for at in range(len(images))]


def _row(sha256: str, source: str, prompt: Prompt, answers: dict[str, str], number: int) -> Row:
    try:
        return Row(sha256, source, prompt.describe(answers, sha256), num_tries=number)
    except BadAnswerError as error:
        return Row(sha256, source, {}, f"bad answer: {error}", num_tries=number)
