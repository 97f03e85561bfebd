"""Where ViT, BERT and their words come from: own warm files, local folders, or the hub."""

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
    load_exactly,
    read_state,
)

# Imported where it is used: transformers takes seconds to import, and reading a configuration
# should not.
if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel, PreTrainedModel, ViTConfig, ViTModel

WARM_FILE = Path(__file__).parent / "warm" / "tiny_vit_bert.safetensors"
TOKENIZER_FILE = Path(__file__).parent / "warm" / "tiny_vit_bert_tokenizer.json"
WARM_COMMAND = "python -m runner.tools.train_tiny_backbones --backbone tiny-vit-bert"

VIT_ON_THE_HUB = "google/vit-base-patch16-224-in21k"
BERT_ON_THE_HUB = "google-bert/bert-base-uncased"

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_TINY_SPREAD = 64**-0.5
"""Standard deviation of the tiny towers' initial weights, one over the root of their width.

transformers' 0.02 suits a width of 768. At 64 an attention layer would pass on a fortieth of what
it is given, and [CLS] hardly see the words: any two captions began with a cosine of 1.000 (0.986).
"""
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Two towers that do not know each other, and the tokenizer of the second."""

    vit: ViTModel
    bert: BertModel
    tokenizer: Tokenizer


def read_towers(config: BackboneConfig) -> Pretrained:
    """Both towers that `config` names, at their own image size and without dropout.

    Weights that are not pretrained are drawn from torch's generator. Only a hub name may use the
    network.

    Raises:
        ValueError: a folder of another model, or with weights that lack something.
        FileNotFoundError: a file is missing.
        RuntimeError: a hub name could not be reached.
    """
    if config.name == TINY_VIT_BERT:
        if config.weights == "warm":
            check_warm_file(WARM_FILE, WARM_COMMAND)
        tokenizer = read_tokenizer(TOKENIZER_FILE)
        return draw_towers(tiny_vit_config(), tiny_bert_config(tokenizer), tokenizer)
    vit = _Source("backbone.image_tower", config.image_tower or VIT_ON_THE_HUB, "vit")
    bert = _Source("backbone.text_tower", config.text_tower or BERT_ON_THE_HUB, "bert")
    is_pretrained = config.weights == "pretrained"
    for source, needs in ((vit, ()), (bert, ("tokenizer.json", "vocab.txt"))):
        source.check_folder(is_pretrained, needs)
    vit_config = cast("ViTConfig", vit.read_config())
    bert_config = cast("BertConfig", bert.read_config())
    tokenizer = bert.read_tokenizer()
    if not is_pretrained:
        return draw_towers(vit_config, bert_config, tokenizer)
    from transformers import BertModel, ViTModel

    return Pretrained(
        cast(ViTModel, vit.read_model(ViTModel, vit_config)),
        cast(BertModel, bert.read_model(BertModel, bert_config)),
        tokenizer,
    )


def draw_towers(vit: ViTConfig, bert: BertConfig, tokenizer: Tokenizer) -> Pretrained:
    """Towers of these architectures, without dropout, drawn from torch's generator."""
    from transformers import BertModel, ViTModel

    return Pretrained(
        ViTModel(_without_dropout(vit), add_pooling_layer=False),
        BertModel(_without_dropout(bert), add_pooling_layer=False),
        tokenizer,
    )


def load_joint(backbone: nn.Module, config: BackboneConfig) -> None:
    """Loads towers and projections that were trained together, if `config` names such a file.

    Raises:
        ValueError: the file is of another architecture.
        FileNotFoundError: it is missing.
    """
    if config.weights == "warm":
        path = WARM_FILE
    elif is_weights_file(config.weights):
        path = Path(config.weights)
        check_weights_file(path)
    else:
        return
    load_exactly(backbone, read_state(path), f"{path} into {config.name}")


def tiny_vit_config() -> ViTConfig:
    """tiny-vit-bert's image tower: as deep as tiny-clip's, two thirds as wide, at half its cost."""
    from transformers import ViTConfig

    return ViTConfig(
        image_size=(64, 32),
        patch_size=8,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=_TINY_SPREAD,
    )


def tiny_bert_config(tokenizer: Tokenizer) -> BertConfig:
    """tiny-vit-bert's text tower for the words of `tokenizer`."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        type_vocab_size=1,
        initializer_range=_TINY_SPREAD,
    )


def word_tokenizer(words: Iterable[str]) -> Tokenizer:
    """A WordPiece tokenizer of these words, lower case; any other word is spelled by its letters.

    A letter or sign that is none of a-z, 0-9 and the words makes its word [UNK]. Equal sets of
    words give equal tokenizers.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    pieces = dict.fromkeys((*_SPECIAL, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)))
    pieces |= dict.fromkeys(sorted({word.lower() for word in words}))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(_SPECIAL))
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a JSON file of the tokenizers library.

    Raises:
        FileNotFoundError: the file is missing.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; make it anew: {WARM_COMMAND}")
    return Tokenizer.from_file(str(path))


@dataclass(frozen=True, slots=True)
class _Source:
    """A folder that transformers saved, or a name on the hub.

    Attributes:
        field: the configuration field that names it.
        name: the folder or the name.
        kind: transformers' name of the architecture that it must have.
    """

    field: str
    name: str
    kind: str

    def check_folder(self, with_weights: bool, one_of: tuple[str, ...]) -> None:
        """Refuses a local folder that lacks a file; a hub name passes.

        Raises:
            FileNotFoundError: says what is missing.
        """
        folder = Path(self.name).expanduser()
        if not folder.is_dir():
            if folder.is_absolute() or self.name.startswith((".", "~")) or len(folder.parts) > 2:
                raise FileNotFoundError(f"{self.field}: no folder at {folder.absolute()}")
            return
        wanted = [("config.json",), one_of, _WEIGHTS if with_weights else ()]
        lacking = [
            " or ".join(group)
            for group in wanted
            if group and not any(any(folder.glob(pattern)) for pattern in group)
        ]
        if lacking:
            raise FileNotFoundError(
                f"{self.field}: expected a folder that transformers' save_pretrained wrote; "
                f"{folder.absolute()} lacks {' and '.join(lacking)}"
            )

    def read_config(self) -> Any:
        """Its architecture.

        Raises:
            ValueError: it is another model than `kind`.
        """
        from transformers import AutoConfig

        config = self._fetch(AutoConfig.from_pretrained)
        if config.model_type != self.kind:
            raise ValueError(
                f"{self.field}: expected a model of type {self.kind}; {self.name} is of type "
                f"{config.model_type}"
            )
        return config

    def read_tokenizer(self) -> Tokenizer:
        """Its tokenizer as the tokenizers library's own."""
        from transformers import AutoTokenizer

        tokenizer = self._fetch(AutoTokenizer.from_pretrained).backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def read_model(self, model: type[PreTrainedModel], config: Any) -> PreTrainedModel:
        """Its tower with all its weights; heads that only pretraining needed are dropped.

        Raises:
            ValueError: weights of the tower are missing or have another shape.
        """
        loaded, report = self._fetch(
            model.from_pretrained,
            config=_without_dropout(config),
            add_pooling_layer=False,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        wrong = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
        if wrong:
            raise ValueError(
                f"{self.field}: the weights in {self.name} lack {len(wrong)} tensors of the tower "
                f"({wrong[0]}, ...); it is no whole model of type {self.kind}"
            )
        return loaded.float()

    def _fetch(self, read: Callable[..., Any], **options: Any) -> Any:
        """What one of transformers' readers gives for the folder or name.

        Raises:
            ValueError: the folder cannot be read.
            RuntimeError: the hub cannot be reached, or does not have the name.
        """
        folder = Path(self.name).expanduser()
        try:
            return read(folder if folder.is_dir() else self.name, **options)
        except Exception as error:
            reason = " ".join(str(error).split())
            if folder.is_dir():
                raise ValueError(f"{self.field}: cannot read {folder}: {reason}") from error
            raise RuntimeError(
                f"{self.field}: {self.name} is no folder here, and the hub did not give it "
                f"({reason}). Without a network, save the model elsewhere by transformers' "
                f"save_pretrained, and set {self.field} to that folder"
            ) from error


def _without_dropout(config: Any) -> Any:
    changed = copy.deepcopy(config)
    changed.hidden_dropout_prob = changed.attention_probs_dropout_prob = 0.0
    return changed
