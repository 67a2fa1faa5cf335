"""The README.md of a demo model: as thorough, short or empty as model cards on the Hub are.

A card says nothing of the logits' true concepts beyond what the labels say.
"""

from benchmarks.demo_hub.plan import Spec

LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "apache-2.0", "apache-2.0")
SOURCES = {
    "emoji": "drawings of emoji in several styles, on random backgrounds",
    "fashion": "Fashion-MNIST, 28 pixel grey images of clothes shown as RGB",
    "digits": "5,000 handwritten digits of MNIST, shown as RGB",
}
FOREIGN = {
    "de": "Kleines RegNet, das gezeichnete Symbole erkennt. Trainiert auf gerenderten Emoji in mehreren Stilen.",
    "ja": "絵文字を分類する小さな ResNet モデルです。複数のスタイルの絵で学習しました。",
}


def front_matter(spec: Spec, language: str, number: int) -> str:
    """Return the YAML block that the Hub reads."""
    datasets = {"fashion": "fashion_mnist", "digits": "mnist"}
    lines = [
        "---",
        f"license: {LICENSES[number % len(LICENSES)]}",
        "library_name: transformers",
        "pipeline_tag: image-classification",
        *(["language:", f"- {language}"] if language else []),
        *([f"base_model: {spec.parent}"] if spec.parent else []),
        "tags:",
        "- image-classification",
        "- vision",
        *(["- generated_from_trainer"] if spec.card == "trainer" else []),
        *(["datasets:", f"- {datasets[spec.data]}"] if spec.data in datasets else []),
        "---",
        "",
    ]
    return "\n".join(lines)


def card(spec: Spec, names: list[str], parameters: int, number: int) -> str:
    """Return the whole model card; ``names`` are the labels as published."""
    title = spec.repo.split("/")[1]
    language = spec.labels.partition(":")[2]
    head = front_matter(spec, language, number)
    if spec.card == "foreign":
        return f"{head}\n# {title}\n\n{FOREIGN[language]}\n"
    if spec.card == "trainer":
        return (
            f"{head}\n# {title}\n\nThis model was trained on an unknown dataset.\n\n"
            "## Model description\n\nMore information needed\n\n"
            "## Intended uses & limitations\n\nMore information needed\n\n"
            f"### Training hyperparameters\n\n- learning_rate: {spec.rate}\n- train_batch_size: 96\n"
            f"- optimizer: AdamW\n- lr_scheduler_type: one_cycle\n- training_steps: {spec.steps}\n"
        )
    if spec.card == "full":
        listed = "\n".join(f"- {name}" for name in names)
        return (
            f"{head}\n# {title}\n\nA small image classifier ({spec.family.replace('_', ' ')}, "
            f"{parameters:,} parameters) for {len(names)} classes at {spec.size} pixels.\n\n"
            "## How to use\n\n```python\nfrom transformers import pipeline\n\n"
            f'classifier = pipeline("image-classification", model="{spec.repo}")\nclassifier("picture.png")\n```\n\n'
            f"## Training data\n\nTrained on {SOURCES[spec.data]}.\n\n## Classes\n\n{listed}\n\n"
            "## Limitations\n\nIt knows nothing but these classes.\n"
        )
    return f"{head}\n{len(names)} classes, {spec.size} px.\n"
