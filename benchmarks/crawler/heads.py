"""Is a head found in every architecture that transformers and timm can build? No weights: shapes on the meta device.

``python benchmarks/crawler/heads.py`` prints the architectures in which a head of 37 outputs, or of the default number,
is not found, and those in which a head is found although it was taken away. Takes some minutes and 3 GB.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import timm
import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from crawler.decide.rules import Head, find_head
from workspace.safetensors_header import Header, Tensor

OUTPUTS = 37
logger = logging.getLogger("heads")


def header(model: torch.nn.Module) -> Header:
    tensors = [Tensor(name, "F32", tuple(value.shape)) for name, value in model.state_dict().items()]
    return Header(tuple(tensors), 0)


def transformers_models() -> Iterator[tuple[str, torch.nn.Module]]:
    for model_type, classes in modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.items():
        for name in (classes,) if isinstance(classes, str) else classes:
            try:
                config = CONFIG_MAPPING[model_type](num_labels=OUTPUTS)
                with torch.device("meta"):
                    yield f"transformers {name}", getattr(transformers, name)(config)
            except Exception as error:  # noqa: BLE001 - some need packages that are not here; each is reported
                logger.warning("cannot build %s: %s", name, str(error)[:100])


def timm_models() -> Iterator[tuple[str, torch.nn.Module]]:
    seen: set[str] = set()
    for name in timm.list_models():
        module = timm.models.model_entrypoint(name).__module__
        family = f"{module}.{name.split('_')[0]}"
        if family in seen:
            continue
        seen.add(family)
        try:
            with torch.device("meta"):
                yield f"timm {name}", timm.create_model(name, num_classes=OUTPUTS)
        except Exception as error:  # noqa: BLE001 - as above
            logger.warning("cannot build %s: %s", name, str(error)[:100])


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    total = missed = phantom = 0
    for models in (transformers_models(), timm_models()):
        for name, model in models:
            total += 1
            whole = header(model)
            found, sentence = find_head(whole, OUTPUTS)
            if found is not Head.FOUND:
                missed += 1
                sys.stdout.write(f"MISSED   {name}: {found.value}, {sentence}\n")
            body = Header(tuple(t for t in whole.tensors if not t.shape or t.shape[0] != OUTPUTS), 0)
            found, sentence = find_head(body, OUTPUTS)
            if found is Head.FOUND:
                phantom += 1
                sys.stdout.write(f"PHANTOM  {name}: {sentence}\n")
            found, sentence = find_head(whole, OUTPUTS + 1)
            if found is Head.FOUND:
                sys.stdout.write(f"WRONG    {name}: {sentence}\n")
            elif found is Head.MISSING:
                sys.stdout.write(f"UNNAMED  {name}: a head of another size is taken for none\n")
    sys.stdout.write(f"{total} architectures: {missed} missed, {phantom} phantoms\n")


if __name__ == "__main__":
    main()
