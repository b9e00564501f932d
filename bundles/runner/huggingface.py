"""A Hugging Face folder: `config.json`, safetensors, and the files of a tokenizer or an image processor.

The architecture must be one that transformers brings: code from the folder is never run (`trust_remote_code` is not
set, and a folder that wants it is refused), nothing is unpickled, and nothing is asked of any hub. Text and images are
classified: an element of BYTES in, a row of logits out.
"""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .declared import LoadError, Refused
from .loaded import Array, Loaded, agree, around_model, spec, weights

PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
FOREIGN = {
    "auto_map": 'brings code of its own, which is never run here; wrap it in a module, with loader = "torch"',
    "quantization_config": 'is quantized by a library of its own; wrap it in a module, with loader = "torch"',
}
KINDS = {"ForSequenceClassification": "text", "ForImageClassification": "image"}
NEEDS = "a huggingface bundle needs pip install 'snowgate[huggingface]'"


def load_huggingface(directory: Path, config: Mapping[str, Any], _engine: str, device: str) -> Loaded:
    """Raise LoadError where the folder is not one that transformers can serve by itself."""
    folder = weights(directory, config).parent
    about = _about(folder)
    kind, architecture = _kind(about)
    # Before it is imported, and whatever the environment says: nothing is fetched, nobody is told.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    try:
        import torch
        import transformers
    except ImportError as error:
        raise LoadError(f"{error}: {NEEDS}") from error
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    made = getattr(transformers, architecture, None)
    if made is None:
        raise LoadError(
            f"config.json: architecture {architecture!r} is not one of transformers {transformers.__version__}"
        )
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, report = made.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
        prepare = _texts(transformers, folder, options) if kind == "text" else _images(transformers, folder, options)
    except Exception as error:  # Whatever transformers and safetensors raise on what they do not know.
        raise LoadError(f"{folder.name}/: can't be read by transformers ({type(error).__name__}: {error})") from error
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would invent them.
        raise LoadError(f"{config['weights']}: has no {', '.join(missing[:5])}, which {architecture} needs")
    labels = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
    value = getattr(model.config, "problem_type", None) == "regression" or len(labels) == 1
    name = "value" if value else "logits"
    outputs = [spec(name, "FP32", [-1, len(labels)], name, **({} if value else {"labels": labels}))]
    content = {"content_type": "image/*"} if kind == "image" else {}
    inputs = [spec(kind, "BYTES", [-1], **content)]
    agree(folder / "config.json", "input", around_model(config, "inputs"), inputs, all_of_them=True)
    agree(folder / "config.json", "output", around_model(config, "outputs"), outputs, all_of_them=True)
    model.eval().to(device)

    def predict(given: dict[str, Array]) -> dict[str, Array]:
        tensors = prepare(given[kind].ravel().tolist()).to(device)
        with torch.inference_mode():
            answer: Array = model(**tensors).logits.float().cpu().numpy()
        return {name: answer}

    return Loaded(predict, "huggingface_safetensors", "transformers", inputs, outputs)


def _about(folder: Path) -> dict[str, Any]:
    """Read config.json, and refuse a folder that asks for more than transformers and its weights."""
    try:
        about: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for key, problem in FOREIGN.items():
            if key in about:
                raise LoadError(f"config.json: has {key!r}: the model {problem}")
    except (OSError, ValueError, TypeError) as error:
        raise LoadError(f"config.json: expected a Hugging Face model's own, beside its weights ({error})") from error
    if (folder / "adapter_config.json").exists():
        raise LoadError("adapter_config.json: an adapter of another model; merge it into the model and save that")
    return about


def _kind(about: Mapping[str, Any]) -> tuple[str, str]:
    architectures = about.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else "none"
    for ending, kind in KINDS.items():
        if architecture.endswith(ending):
            return kind, architecture
    expected = " or ".join(f"…{ending}" for ending in KINDS)
    raise LoadError(f"config.json: architecture {architecture!r}, expected {expected}")


def _texts(transformers: Any, folder: Path, options: Mapping[str, Any]) -> Callable[[Sequence[Any]], Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    # Where the folder does not say how long a text may be, it says a number beyond all bounds.
    longest = min(tokenizer.model_max_length, 1 << 20)

    def prepare(texts: Sequence[Any]) -> Any:
        try:
            words = [one.decode() if isinstance(one, bytes) else str(one) for one in texts]
        except UnicodeDecodeError as error:
            raise Refused(f"text: {error}, expected UTF-8") from error
        return tokenizer(words, padding=True, truncation=True, max_length=longest, return_tensors="pt")

    return prepare


def _images(transformers: Any, folder: Path, options: Mapping[str, Any]) -> Callable[[Sequence[Any]], Any]:
    try:
        from PIL import Image
    except ImportError as error:
        raise LoadError(f"{error}: images need pip install 'snowgate[images]'") from error
    if not any((folder / name).exists() for name in PREPROCESSORS):
        raise LoadError(f"{PREPROCESSORS[0]}: not beside the weights; save the image processor there as well")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **options)

    def picture(data: bytes) -> Any:
        try:
            return Image.open(io.BytesIO(data)).convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise Refused(f"image: {len(data)} bytes that are no picture: {error}") from error

    def prepare(images: Sequence[bytes]) -> Any:
        return processor(images=[picture(one) for one in images], return_tensors="pt")

    return prepare
