"""Small tokenizers of four families, small models of two shapes, and a part of the demo's text."""

import json
import lzma
from pathlib import Path

ENGLISH = [
    "The quick brown fox jumps over the lazy dog and runs into the deep forest.",
    "A model reads 42 tokens, and then it writes another 17 of them.",
    "Nothing is as it was in 1999: the house, the river, the old mill.",
] * 40
GERMAN = [
    "Der schnelle braune Fuchs springt über den faulen Hund und läuft in den tiefen Wald.",
    "Ein Modell liest 42 Wörter, und dann schreibt es noch einmal 17 davon.",
    "Nichts ist wie 1999: das Haus, der Fluss, die alte Mühle, größer und schöner.",
] * 40
FAMILIES = ("byte-level", "sentencepiece-bpe", "unigram", "wordpiece")


def make_tokenizer(family: str, lines: list[str], size: int = 300):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if family == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size + 256, special_tokens=["<|end|>"], initial_alphabet=alphabet)
        roles = {"bos_token": "<|end|>", "eos_token": "<|end|>"}
    elif family == "sentencepiece-bpe":
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        special = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
        trainer = trainers.BpeTrainer(vocab_size=size + 259, special_tokens=special)
        roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    elif family == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>")
        roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
        roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    trainer.show_progress = False
    tokenizer.train_from_iterator(lines, trainer)
    if family == "sentencepiece-bpe":  # raw bytes are ordinary tokens, as in real ones
        description = json.loads(tokenizer.to_str())
        description["added_tokens"] = [t for t in description["added_tokens"] if not t["content"].startswith("<0x")]
        tokenizer = Tokenizer.from_str(json.dumps(description))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def make_model(folder: Path, tokenizer, shape="llama", tied=True, dtype="float32", width=32, rows=None, seed=0):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    rows = rows or len(tokenizer)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    if shape == "llama":
        config = LlamaConfig(
            vocab_size=rows,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=tied,
            **ids,
        )
        model = LlamaForCausalLM(config)
    else:
        config = GPT2Config(
            vocab_size=rows, n_positions=64, n_embd=width, n_layer=1, n_head=2, tie_word_embeddings=tied, **ids
        )
        model = GPT2LMHeadModel(config)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def put_short_text(folder: Path, part: int = 6) -> None:
    """Put a part of the demo's held-out text, a sixth, where the demo unpacks all of it: scoring is as much faster."""
    from clp_core.demo import DATA, EVAL_TEXT

    folder.mkdir(parents=True, exist_ok=True)
    lines = lzma.decompress((DATA / "valid.txt.xz").read_bytes()).splitlines(keepends=True)
    (folder / EVAL_TEXT).write_bytes(b"".join(lines[: len(lines) // part]))
