"""Ten questions to a release, as its card shows them; the tests ask each of a real one."""

from __future__ import annotations

QUERIES: tuple[tuple[str, str], ...] = (
    (
        "How did the attempts end?",
        """SELECT outcome, status, count(*) AS models
FROM 'attempts/*.parquet' GROUP BY ALL ORDER BY models DESC""",
    ),
    (
        "Which models were probed, and how often are they downloaded?",
        """SELECT m.id, m.downloads, m.license, a.num_logits
FROM 'models/*.parquet' m JOIN 'attempts/*.parquet' a ON a.repo_id = m.id AND a.sha = m.sha
WHERE a.status = 'ok' ORDER BY m.downloads DESC LIMIT 10""",
    ),
    (
        "Which labels do most models know?",
        """SELECT lower(label) AS label, count(DISTINCT repo_id) AS models
FROM 'logits/*.parquet' WHERE label IS NOT NULL GROUP BY ALL ORDER BY models DESC, label LIMIT 10""",
    ),
    (
        "Which popular models do not say what their outputs mean?",
        """SELECT id, downloads, label_quality
FROM 'models/*.parquet' WHERE label_quality <> 'named' ORDER BY downloads DESC LIMIT 10""",
    ),
    (
        "Which outputs answer the probes like the first output of a model?",
        """WITH asked AS (SELECT repo_id, vector FROM 'descriptors/*.parquet' ORDER BY repo_id, sha, logit LIMIT 1)
SELECT d.repo_id, d.logit, d.label, list_cosine_similarity(d.vector, asked.vector) AS alike
FROM 'descriptors/*.parquet' d, asked WHERE d.repo_id <> asked.repo_id ORDER BY alike DESC LIMIT 10""",
    ),
    (
        "Which probes does that output answer most strongly?",
        """WITH asked AS (SELECT vector FROM 'descriptors/*.parquet' ORDER BY repo_id, sha, logit LIMIT 1),
answers AS (SELECT unnest(vector) AS response, generate_subscripts(vector, 1) - 1 AS probe_id FROM asked)
SELECT p.probe_id, p.source, response
FROM answers JOIN 'probes/*.parquet' p USING (probe_id) ORDER BY response DESC LIMIT 5""",
    ),
    (
        "Which outputs cannot be searched, and why?",
        """SELECT excluded, count(*) AS outputs, count(DISTINCT repo_id) AS models
FROM 'logits/*.parquet' WHERE excluded IS NOT NULL GROUP BY ALL""",
    ),
    (
        "How long does a model take, by library?",
        """SELECT m.library_name, count(*) AS models, avg(a.seconds_forward) AS seconds,
    sum(a.bytes_fetched) / 1e6 AS mb
FROM 'models/*.parquet' m JOIN 'attempts/*.parquet' a ON a.repo_id = m.id AND a.sha = m.sha
WHERE a.status = 'ok' GROUP BY ALL ORDER BY models DESC""",
    ),
    (
        "Under which licences are the models?",
        """SELECT coalesce(license, 'none stated') AS license, count(*) AS models
FROM 'models/*.parquet' GROUP BY ALL ORDER BY models DESC""",
    ),
    (
        "From which models were most others made?",
        """SELECT base, count(*) AS made_from_it
FROM (SELECT unnest(base_models) AS base FROM 'models/*.parquet') GROUP BY ALL ORDER BY made_from_it DESC LIMIT 10""",
    ),
)
"""What is asked, and the SQL, which reads the files of the folder it is run in."""
