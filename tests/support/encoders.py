"""A tiny encoder of each common family: random weights, and the family's tokenizer, trained on made-up tweets."""

from pathlib import Path
from typing import Any

from tests.support.clones import ROOT
from tests.support.made_up import made_up_tweets

MINILM = ROOT / "data/encoders/all-minilm-l6-v2.yaml"
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
BERT = {"hidden_size": 32, "max_position_embeddings": 64, **HEADS}
ROBERTA = {**BERT, "max_position_embeddings": 66}  # two of them before the first token's
# By the family: the names of its configuration and of its tokenizer, and its size.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BERT": ("BertConfig", "BertTokenizer", BERT),
    "RoBERTa": ("RobertaConfig", "RobertaTokenizer", ROBERTA),
    "DistilBERT": (
        "DistilBertConfig",
        "DistilBertTokenizer",
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    ),
    "ELECTRA": ("ElectraConfig", "ElectraTokenizer", {**BERT, "embedding_size": 16}),
    "DeBERTa-v3": (
        "DebertaV2Config",
        "DebertaV2Tokenizer",
        {
            **BERT, "relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False, "type_vocab_size": 0,
        },
    ),
    "MPNet": ("MPNetConfig", "MPNetTokenizer", ROBERTA),
    "ALBERT": ("AlbertConfig", "AlbertTokenizer", {**BERT, "embedding_size": 16}),
    "XLM-R": ("XLMRobertaConfig", "XLMRobertaTokenizer", ROBERTA),
    "ModernBERT": ("ModernBertConfig", "RobertaTokenizer", BERT),  # a tokenizer of bytes, as RoBERTa's
}  # fmt: skip


def write(family: str, folder: Path) -> None:
    """Write an encoder of the family as transformers saves it, for `featurize.encoder`."""
    import torch
    import transformers

    config_name, tokenizer_name, size = FAMILIES[family]
    texts = made_up_tweets(240)["text"].tolist()
    tokenizer = getattr(transformers, tokenizer_name)().train_new_from_iterator(texts, 300, show_progress=False)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    special |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    config = getattr(transformers, config_name)(vocab_size=len(tokenizer), **special, initializer_range=0.1, **size)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
