"""Summer or winter? A tiny BERT and its tokenizer, made here: `snowgate train -- python train.py`."""

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WINTER, SUMMER = ["snow", "ice", "frost", "falls"], ["sun", "heat", "beach", "shines"]

torch.manual_seed(1)
chance = np.random.default_rng(1)
seasons = chance.integers(0, 2, 240)
texts = [" ".join(chance.choice([SUMMER, WINTER][season], chance.integers(1, 5))) for season in seasons]
words = Tokenizer(
    models.WordLevel({word: number for number, word in enumerate([*SPECIAL, *WINTER, *SUMMER])}, unk_token="[UNK]")
)
words.normalizer = normalizers.Lowercase()
words.pre_tokenizer = pre_tokenizers.Whitespace()
words.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
    model_max_length=32,
)  # fmt: skip
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
model = BertForSequenceClassification(
    BertConfig(vocab_size=12, max_position_embeddings=32, id2label={0: "summer", 1: "winter"}, **sizes)
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
given, wanted = tokenizer(texts[:200], padding=True, return_tensors="pt"), torch.tensor(seasons[:200])
for _ in range(20):
    loss = model(**given, labels=wanted).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

output = Path(os.environ.get("SNOWGATE_OUTPUT", "model"))
output.mkdir(exist_ok=True)
model.save_pretrained(output)
tokenizer.save_pretrained(output)
np.savez(output / "holdout.npz", text=np.array(texts[200:]))
shutil.copy("bundle.toml", output)
