"""Requests as lmms-eval's tasks make them, for tests."""

from lmms_eval.api.instance import Instance

TASK, SPLIT = "asked", "test"


def generating(model, docs, **options):
    """Returns a request for each document, which has `text` and `images`, and gives the model the documents."""
    return _requests("generate_until", model, docs, [(row, options) for row in range(len(docs))])


def weighing(model, docs, choices):
    """Returns a request for the probability of each choice for each document."""
    return _requests("loglikelihood", model, docs, [(row, choice) for row in range(len(docs)) for choice in choices])


def _requests(kind, model, docs, rows):
    model.task_dict[TASK] = {SPLIT: docs}

    def images(doc):
        return doc["images"]

    return [
        Instance(
            kind,
            (docs[row]["text"], dict(what) if isinstance(what, dict) else what, images, row, TASK, SPLIT),
            0,
            metadata={"task": TASK, "doc_id": row, "repeats": 1},
        )
        for row, what in rows
    ]
