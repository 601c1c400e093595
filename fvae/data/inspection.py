"""What is seen in data before a model is trained on them."""

from collections import Counter

from fvae.data.samples import Samples, digests


def inspect(train: Samples, test: Samples) -> list[str]:
    """What is unusual about training and held-out data, in six lines at most.

    Example:
        >>> fvae.data.inspect(*fvae.read_data("digits"))
        []
    """
    noun, n, different, seen = train.modality.noun, len(train), set(digests(train.values)), []
    if len(different) < n:
        found = f"{n - len(different):,} of them are copies of others" if len(different) > 1 else "all are equal"
        seen += [f"{n:,} training {noun}: {found}"]
    if train.modality.dims and (known := sum(d in different for d in digests(test.values))):
        seen += [f"{known:,} of {len(test):,} held-out {noun} are among the training {noun} too"]
    if train.labels is not None:
        counts = Counter(train.labels.tolist())
        names = {k: str(k) for k in counts} | dict(enumerate(train.modality.classes))
        rare = [f"{name} ({counts[k]})" for k, name in sorted(names.items()) if counts[k] < min(10, n / len(names) / 2)]
        if len(counts) == 1:
            seen += [f"all {n:,} training {noun} have the label {names[next(iter(counts))]}"]
        elif rare:
            seen += [f"labels of few training {noun}: {', '.join(rare[:5])}{', ...' * (len(rare) > 5)}"]
    return [*seen, *train.modality.notes_of_training(train, test)][:6]
