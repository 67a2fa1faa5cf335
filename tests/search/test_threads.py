"""Many threads ask while the index grows: no error, no wrong answer, and the memory does not grow."""

import gc
import resource
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

TEXTS = ["dog", "cat", "pizza", "guitar", "cloud", "some other thing"]


ROUND = 120  # 17 of each kind, and 3 in SQL


def test_queries_while_appends_run(fresh, monkeypatch):
    monkeypatch.setattr("search.scan.nearest._FEW", 8)  # or a gallery this small would never be scanned
    fresh.index()
    first = fresh.open()
    repo = next(iter(fresh.vectors))[0]

    def ask(index, i):
        text = TEXTS[i % len(TEXTS)]
        kinds = (
            lambda: index.search(text).limit(5).to_arrow(),
            lambda: index.search(text).where(f"likes >= {i % 3}").limit(5).to_arrow(),
            lambda: index.search(text).by("model").limit(3).to_arrow(),
            lambda: index.similar(repo, i % 10).limit(5).to_arrow(),
            lambda: index.search(text, hybrid=True).limit(5).to_arrow(),
            lambda: index.search_many(TEXTS[:3], limit=4)[1],
            lambda: index.search(all_of=[text, "dog"]).limit(3).to_arrow(),
            lambda: index.sql(f"SELECT repo_id, logit FROM search('{text}', n := 5) ORDER BY rank"),
        )
        return kinds[i % len(kinds) if i % 40 == 7 else i % 7]().select(["repo_id", "logit"]).to_pylist()

    expected = [ask(first, i) for i in range(ROUND)]
    stop = threading.Event()
    grown = []

    def grow():
        number = 5
        while not stop.is_set() and number < 12:
            fresh.add(range(number, number + 1))
            grown.append(fresh.index().models)
            number += 1

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            for i, answer in enumerate(pool.map(lambda i: ask(first, i % ROUND), range(2 * ROUND))):
                assert answer == expected[i % ROUND], i
    finally:
        stop.set()
        writer.join()
    assert grown == list(range(6, 6 + len(grown)))
    assert len(fresh.open()) == 10 * (5 + len(grown))
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ThreadPoolExecutor(8) as pool:
        ours = [i for i in range(ROUND) if i % 40 != 7]  # the memory of SQL is a child's
        list(pool.map(lambda i: ask(first, i), 4 * ours))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1.05 * before


def test_labels_from_strangers_are_data(fresh):
    labels = [
        "it's",
        'a "quote"',
        "\\",
        "'); DROP TABLE models; --",
        "\x1b[31mred",
        "=1+1",
        "<b>",
        "𝕏 犬",
        "",
        None,
        "%",
        "_",
    ]
    rng = np.random.default_rng(0)
    rows = [
        {"repo_id": "evil/labels", "logit": i, "label": label, "vector": rng.standard_normal(120).astype(np.float16)}
        for i, label in enumerate(labels)
    ]
    fresh.write("evil", rows)
    fresh.index()
    index = fresh.open()
    mine = index.search("dog").where("repo_id = 'evil/labels'").limit(100).to_dicts()
    assert {h["logit"]: h["label"] for h in mine} == dict(enumerate(labels))
    for label in (label for label in labels if label is not None):
        quoted = label.replace("'", "''")
        (hit,) = index.search("dog").where(f"label = '{quoted}' and repo_id = 'evil/labels'").to_dicts()
        assert hit["label"] == label
        assert index.sql(f"SELECT label FROM logits WHERE label = '{quoted}'").to_pylist() == [{"label": label}]
