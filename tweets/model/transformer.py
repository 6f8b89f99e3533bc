"""A trained classifier: the Hugging Face folder that `train` writes, and predictions from it.

transformers is imported where a model is loaded: a model's class costs twice what torch does, which `--help`, a wrong
param and a missing file need not wait for. See `python -m benchmarks.imports`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from tweets.errors import UserError, one_line
from tweets.model import pretrained
from tweets.model.device import has_bf16
from tweets.model.portable import Precision
from tweets.progress import track
from tweets.text import cleaning, token_arrays
from tweets.text.cleaning import CleaningSettings, clean
from tweets.text.token_arrays import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLEANING = "cleaning.json"
NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", CLEANING)


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A model for K labels, with what it takes to go from a raw tweet to probabilities."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    tokens: Tokenizer  # of the tokenizer, for `encode`
    cleaning: CleaningSettings
    labels: list[str]
    max_length: int

    def predict(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool = False) -> npt.NDArray[np.float64]:
        """Return the probabilities of the labels for raw tweets, (N, K)."""
        if not texts:
            return np.empty((0, len(self.labels)))
        ids, offsets = token_arrays.encode(self.tokens, clean(texts, self.cleaning))
        rows = len(texts)
        encoded = Encoded(
            ids=ids, offsets=offsets, labels=np.zeros(rows, np.int64), confidence=np.zeros(rows, np.float32)
        )
        return probabilities(self.model, encoded, self.tokenizer.pad_token_id, batch_size=batch_size, progress=progress)


def load(folder: Path, device: str = "cpu", precision: Precision = "auto") -> Classifier:
    """Read a model folder. Raises UserError when it is not one, or its files are damaged.

    In "fp32" it gives the probabilities of `transformers.pipeline`. "auto" is "bf16" where the hardware has it: faster,
    see `in_bfloat16`.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: not a model folder: no {', '.join(missing)}; `dvc repro` or `dvc pull` gives one")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415  see the top

    pretrained.quiet()
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001  transformers, tokenizers and safetensors each raise their own
        raise UserError(f"{folder}: a damaged model folder: {one_line(error)[:200]}") from None
    if report["missing_keys"]:
        # transformers would draw these weights at random.
        raise UserError(f"{folder}: a damaged model folder: no weights {', '.join(sorted(report['missing_keys']))}")
    settings = cleaning.load(folder / CLEANING)
    labels = [model.config.id2label[k] for k in range(model.config.num_labels)]
    model = model.to(device).eval()
    read_first_token_only(model)
    if precision == "bf16" or (precision == "auto" and has_bf16(device)):
        in_bfloat16(model)
    return Classifier(
        model=model,
        tokenizer=tokenizer,
        tokens=token_arrays.backend(tokenizer, tokenizer.model_max_length),
        cleaning=settings,
        labels=labels,
        max_length=tokenizer.model_max_length,
    )


def in_bfloat16(model: "PreTrainedModel") -> None:
    """Let the model multiply matrices in bfloat16; norms, the softmax of attention and sums over layers stay float32.

    2.7 times as fast as float32 on a CPU with AVX-512 BF16, and probabilities move by about 0.01 at most: see
    `python -m benchmarks.predict`.
    """
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.to(torch.bfloat16)  # once, where autocast would do it at each call
    if model.device.type == "cpu":
        model.set_attn_implementation("eager")  # at a tweet's length faster there than the fused kernel
    model.forward = torch.autocast(model.device.type, torch.bfloat16)(model.forward)


def read_first_token_only(model: "PreTrainedModel") -> None:
    """Let BERT's last layer compute the vector of the first token alone: the head reads no other.

    The logits stay what they are, but for rounding. Saves a seventh of the matrix products in an encoder of six layers,
    and training is 1.0 to 1.2 times as fast: `python -m benchmarks.tricks`. Other architectures stay as they are.
    """
    from transformers import BertForSequenceClassification  # noqa: PLC0415  see the top

    if isinstance(model, BertForSequenceClassification):
        layer = model.bert.encoder.layer[-1]
        layer.forward = MethodType(_first_token, layer)


def _first_token(layer: Any, vectors: torch.Tensor, mask: torch.Tensor | None, *_: Any, **__: Any) -> torch.Tensor:
    """Return what the layer makes of the first token, (batch, 1, size), that sees all (batch, tokens, size)."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: PLC0415  see the top
    from transformers.models.bert.modeling_bert import eager_attention_forward  # noqa: PLC0415

    own = layer.attention.self
    first = vectors[:, :1]
    query, key, value = (
        part.view(*part.shape[:2], own.num_attention_heads, -1).transpose(1, 2)
        for part in (own.query(first), own.key(vectors), own.value(vectors))
    )
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(own.config._attn_implementation, eager_attention_forward)
    seen, _weights = attend(
        own,
        query,
        key,
        value,
        mask if mask is None else mask[:, :, :1],
        scaling=own.scaling,
        dropout=own.dropout.p if own.training else 0.0,
    )
    attended = layer.attention.output(seen.flatten(2), first)
    result: torch.Tensor = layer.feed_forward_chunk(attended)
    return result


def save(
    folder: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", settings: CleaningSettings
) -> None:
    """Write the folder that `load` and `transformers.pipeline` read; the weights go as safetensors only."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    cleaning.save(folder / CLEANING, settings)


@torch.inference_mode()
def probabilities(
    model: "PreTrainedModel", encoded: Encoded, pad: int, *, batch_size: int, progress: bool = False
) -> npt.NDArray[np.float64]:
    """Return the probabilities of the labels, (N, K), for the N rows in their order.

    Rows of like length share a batch, so little is padded. Raises UserError when the model gives no numbers.
    """
    order = np.argsort(encoded.lengths, kind="stable")[::-1]
    result = np.empty((len(encoded), model.config.num_labels))
    for start in track(range(0, len(order), batch_size), desc="predict", unit="batches", disable=not progress):
        rows = order[start : start + batch_size]
        ids, mask = encoded.padded(rows, pad)
        logits = model(
            input_ids=torch.from_numpy(ids).to(model.device), attention_mask=torch.from_numpy(mask).to(model.device)
        ).logits
        result[rows] = logits.double().softmax(-1).cpu().numpy()
    if not np.isfinite(result).all():
        raise UserError("the model gives numbers that are not finite: its weights are damaged, or its training failed")
    return result
