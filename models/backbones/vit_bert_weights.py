"""Weights and tokenizers of ViT and BERT: included files, local folders, or the hub."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from models.backbones.config import TINY_VIT_BERT, BackboneConfig
from models.backbones.weights import (
    check_warm_file,
    check_weights_file,
    is_weights_file,
    load_strict,
    read_state,
)

# Imported where needed: transformers takes seconds to import, which reading a configuration does
# not need.
if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel, PreTrainedModel, ViTConfig, ViTModel

WARM_FILE = Path(__file__).parent / "warm" / "tiny_vit_bert.safetensors"
TOKENIZER_FILE = Path(__file__).parent / "warm" / "tiny_vit_bert_tokenizer.json"
WARM_COMMAND = "python -m runner.tools.train_tiny_backbones --backbone tiny-vit-bert"

DEFAULT_VIT = "google/vit-base-patch16-224-in21k"
DEFAULT_BERT = "google-bert/bert-base-uncased"

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_TINY_INIT_STD = 64**-0.5
"""Standard deviation of the tiny towers' initial weights, 1 / sqrt(width).

transformers' default of 0.02 suits a width of 768. At width 64, an attention layer would pass on a
fortieth of its input, [CLS] would hardly depend on the words, and the initial cosine of two
captions would be 1.000 (with this value: 0.986).
"""
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Two separately pretrained towers and the tokenizer of the text tower."""

    vit: ViTModel
    bert: BertModel
    tokenizer: Tokenizer


def read_towers(config: BackboneConfig) -> Pretrained:
    """Load both towers of `config` at their native image size and with its dropout.

    Weights that are not pretrained are initialised from torch's generator. Only a hub name may
    access the network.

    Raises:
        ValueError: a folder has another model or incomplete weights.
        FileNotFoundError: a file is missing.
        RuntimeError: the hub could not be reached.
    """
    if config.name == TINY_VIT_BERT:
        if config.weights == "warm":
            check_warm_file(WARM_FILE, WARM_COMMAND)
        tokenizer = read_tokenizer(TOKENIZER_FILE)
        vit_config, bert_config = tiny_vit_config(), tiny_bert_config(tokenizer)
        return random_towers(vit_config, bert_config, tokenizer, config.dropout)
    vit = _Source("backbone.image_tower", config.image_tower or DEFAULT_VIT, "vit")
    bert = _Source("backbone.text_tower", config.text_tower or DEFAULT_BERT, "bert")
    is_pretrained = config.weights == "pretrained"
    for source, tokenizer_files in ((vit, ()), (bert, ("tokenizer.json", "vocab.txt"))):
        source.check_folder(is_pretrained, tokenizer_files)
    vit_config = cast("ViTConfig", vit.read_config())
    bert_config = cast("BertConfig", bert.read_config())
    tokenizer = bert.read_tokenizer()
    if not is_pretrained:
        return random_towers(vit_config, bert_config, tokenizer, config.dropout)
    from transformers import BertModel, ViTModel

    return Pretrained(
        cast(ViTModel, vit.read_model(ViTModel, _with_dropout(vit_config, config.dropout))),
        cast(BertModel, bert.read_model(BertModel, _with_dropout(bert_config, config.dropout))),
        tokenizer,
    )


def random_towers(
    vit: ViTConfig, bert: BertConfig, tokenizer: Tokenizer, dropout: float = 0.0
) -> Pretrained:
    """Create towers initialised from torch's generator."""
    from transformers import BertModel, ViTModel

    return Pretrained(
        ViTModel(_with_dropout(vit, dropout), add_pooling_layer=False),
        BertModel(_with_dropout(bert, dropout), add_pooling_layer=False),
        tokenizer,
    )


def load_joint(backbone: nn.Module, config: BackboneConfig) -> None:
    """Load jointly trained towers and projections if `config` names such a file.

    Raises:
        ValueError: the file has another architecture.
        FileNotFoundError: the file is missing.
    """
    if config.weights == "warm":
        path = WARM_FILE
    elif is_weights_file(config.weights):
        path = Path(config.weights)
        check_weights_file(path)
    else:
        return
    load_strict(backbone, read_state(path), f"{path} into {config.name}")


def tiny_vit_config() -> ViTConfig:
    """Return the configuration of tiny-vit-bert's image tower, at half the cost of tiny-clip's."""
    from transformers import ViTConfig

    return ViTConfig(
        image_size=(64, 32),
        patch_size=8,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=_TINY_INIT_STD,
    )


def tiny_bert_config(tokenizer: Tokenizer) -> BertConfig:
    """Return the configuration of tiny-vit-bert's text tower for the vocabulary of `tokenizer`."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        type_vocab_size=1,
        initializer_range=_TINY_INIT_STD,
    )


def word_tokenizer(words: Iterable[str]) -> Tokenizer:
    """Create a lower-case WordPiece tokenizer of the given words; others are split into letters.

    A word with a character outside a-z, 0-9 and the given words becomes [UNK]. Equal sets of words
    give equal tokenizers.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    pieces = dict.fromkeys((*_SPECIAL, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)))
    pieces |= dict.fromkeys(sorted({word.lower() for word in words}))
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(_SPECIAL))
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer from a JSON file of the tokenizers library.

    Raises:
        FileNotFoundError: the file is missing.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; create it with: {WARM_COMMAND}")
    return Tokenizer.from_file(str(path))


@dataclass(frozen=True, slots=True)
class _Source:
    """A folder written by transformers, or a name on the hub.

    Attributes:
        field: name of the configuration field.
        name: the folder or hub name.
        kind: required model type.
    """

    field: str
    name: str
    kind: str

    def check_folder(self, with_weights: bool, one_of: tuple[str, ...]) -> None:
        """Check that a local folder has all files; a hub name always passes.

        Raises:
            FileNotFoundError: the folder or a file is missing.
        """
        folder = Path(self.name).expanduser()
        if not folder.is_dir():
            if folder.is_absolute() or self.name.startswith((".", "~")) or len(folder.parts) > 2:
                raise FileNotFoundError(
                    f"{self.field}: expected an existing folder, got {folder.absolute()}"
                )
            return
        required = [("config.json",), one_of, _WEIGHTS if with_weights else ()]
        missing = [
            " or ".join(group)
            for group in required
            if group and not any(any(folder.glob(pattern)) for pattern in group)
        ]
        if missing:
            raise FileNotFoundError(
                f"{self.field}: expected a folder written by transformers' save_pretrained; "
                f"{folder.absolute()} has no {' and no '.join(missing)}"
            )

    def read_config(self) -> Any:
        """Read the model configuration.

        Raises:
            ValueError: the model type is not `kind`.
        """
        from transformers import AutoConfig

        config = self._fetch(AutoConfig.from_pretrained)
        if config.model_type != self.kind:
            raise ValueError(
                f"{self.field}: expected a model of type {self.kind}; {self.name} has type "
                f"{config.model_type}"
            )
        return config

    def read_tokenizer(self) -> Tokenizer:
        """Read the tokenizer as a tokenizer of the tokenizers library."""
        from transformers import AutoTokenizer

        tokenizer = self._fetch(AutoTokenizer.from_pretrained).backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def read_model(self, model: type[PreTrainedModel], config: Any) -> PreTrainedModel:
        """Read the tower with all weights, without the heads used in pretraining only.

        Raises:
            ValueError: weights are missing or have another shape.
        """
        loaded, report = self._fetch(
            model.from_pretrained,
            config=config,
            add_pooling_layer=False,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        missing = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
        if missing:
            raise ValueError(
                f"{self.field}: expected a complete model of type {self.kind}; {self.name} lacks "
                f"{len(missing)} tensors ({missing[0]}, ...)"
            )
        return loaded.float()

    def _fetch(self, read: Callable[..., Any], **options: Any) -> Any:
        """Call one of transformers' readers with the folder or hub name.

        Raises:
            ValueError: the folder cannot be read.
            RuntimeError: the hub cannot be reached or does not have the name.
        """
        folder = Path(self.name).expanduser()
        try:
            return read(folder if folder.is_dir() else self.name, **options)
        except Exception as error:
            reason = " ".join(str(error).split())
            if folder.is_dir():
                raise ValueError(f"{self.field}: cannot read {folder}: {reason}") from error
            raise RuntimeError(
                f"{self.field}: {self.name} is not a local folder and could not be loaded from "
                f"the hub ({reason}). Without network access, save the model elsewhere with "
                f"transformers' save_pretrained and set {self.field} to that folder"
            ) from error


def _with_dropout(config: Any, dropout: float) -> Any:
    changed = copy.deepcopy(config)
    changed.hidden_dropout_prob = changed.attention_probs_dropout_prob = dropout
    return changed
