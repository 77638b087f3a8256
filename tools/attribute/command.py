"""`mixstream attribute`: options and help of its two commands. The work is in feature_run.py and score_run.py."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.selection.datamodels import Damping
from mixstream.units import parse_bytes

from ..shared.console import Console
from ..shared.numbers import Count, MaybePositive, Seed, whole
from ..shared.options import Flag, Json, Reading, device_of
from ..shared.outputs import Output
from ..shared.parts import PartOptions
from .feature_run import FeatureRun
from .proxies import describe_proxies
from .score_run import ScoreRun
from .settings import Settings

_Models = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)]
_TARGET = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.+-]{0,99})=(.+)", re.ASCII)


def features(
    *urls: Annotated[str, Parameter(name="URL")],
    model: _Models,
    output_function: Literal["log-odds", "loss"] = "log-odds",
    project_dim: Count = 4096,
    project_kind: Literal["rademacher", "gaussian"] = "rademacher",
    seed: Seed = 0,
    column: str = "tokens",
    parameters: _Models = (),
    max_tokens: MaybePositive = None,
    pad: Annotated[int | None, whole(optional=True)] = None,
    dtype: Literal["f2", "f4"] = "f2",
    precision: Literal["float32", "bfloat16"] = "float32",
    device: str = "auto",
    memory: str = "1gb",
    reading: Reading = Reading(),  # noqa: B008  # frozen
    options: PartOptions = PartOptions(),  # noqa: B008  # frozen
    output: Output,
    as_json: Json = False,
) -> int:
    """Make features of every row: projected gradients of proxy models.

    mixstream attribute features shards/ --model proxy0,proxy1 --out feat/
    mixstream attribute features web=s3://corpus/web --model models:proxies \\
        --project-dim 1024 --part 3/64 --out feat/

    PROXIES. Small models that were trained on the same kind of rows, from
    different seeds; four of them rank clearly better than one. Each is a
    directory that `save_pretrained` of transformers wrote, or MODULE:FUNCTION,
    which returns a torch model or a list: int64 tokens [B, T] to logits
    [B, T, V]; a position must not see later ones.

    FEATURES. A row is differentiated as a whole: its output is the mean over
    its tokens of log(p / (1 - p)) of the correct token. A row with fewer than
    two tokens has no gradient and is flagged as too short. A random matrix of
    each proxy's own, made from --seed, projects the gradients.

    OUTPUT. OUT/DOMAIN: scores with the columns phi.0, phi.1, ... [rows,
    project-dim], one_minus_p.0, ... and n_tokens. The same command goes on
    after an interruption; a part that is complete is not made again. The bits
    do not depend on the number of parts.

    Exit status: 0, 1 if a domain has no features at all, since the gradients of
    its rows are not finite, 2 wrong use.

    Args:
        urls: datasets of token rows, directories above several, or NAME=URL.
        model: proxy models, separated by commas; may be repeated.
        output_function: what is differentiated; `loss` is minus the cross entropy.
        project_dim: features of a row. More keep gradients apart better, and take more disk and time.
        project_kind: entries of the projection.
        seed: of the projections.
        column: of the token arrays.
        parameters: shell patterns of parameters to differentiate by, as '*.mlp.*'; may be repeated. Default: all.
        max_tokens: read so many tokens of each row, and not what follows.
        pad: token that rows are padded with; it is not predicted.
        dtype: of the stored features.
        precision: of the models.
        device: as torch names it; auto: cuda if there is one.
        memory: for the gradients in each process, an estimate and no limit; faster if one half holds those of ten rows
            or more (4 bytes a parameter and row).
        as_json: print one JSON document, not tables.
    """
    settings = Settings(
        models=describe_proxies(model),
        column=column,
        output=output_function,
        project_dim=project_dim,
        project_kind=project_kind,
        seed=seed,
        parameters=parameters,
        max_tokens=max_tokens,
        pad=pad,
        dtype=dtype,
        precision=precision,
        device=device_of(device),
        memory=parse_bytes(memory),
    )
    if settings.device.startswith("cuda") and options.workers is None and options.single is None:
        options = replace(options, workers=1)  # processes would share the GPU
    run = FeatureRun(
        settings=settings,
        output=output,
        options=options,
        reading=reading,
        console=Console(as_json=as_json),
    )
    run.plan(urls)
    if output.dry_run:
        run.show_plan()
        return 0
    return run.run()


def score(
    features: Annotated[str, Parameter(name="FEATURES")],
    /,
    *,
    target: _Models,
    damping: str = "auto",
    aggregate: Literal["mean", "max"] = "mean",
    unit_norm: Flag = False,
    model: _Models = (),
    tokenizer: str | None = None,
    device: str = "auto",
    memory: str = "1gb",
    output: Output,
    as_json: Json = False,
) -> int:
    """Score rows by their features and by those of target sets.

    mixstream attribute score feat/ --target qa=questions.jsonl --out scores/
    mixstream attribute score feat/ --target code=shards/code-val \\
        --target maths=feat-maths/maths --aggregate max --out scores/

    TARGETS. NAME=PATH: a .jsonl file whose lines are {"text": ...},
    {"prompt": ..., "completion": ...} (only the completion is predicted) or
    {"tokens": [...]}; a dataset; or features of a dataset, made with the same
    options. Every sample counts. Take targets that are like the task but not
    its test set, and check that no row holds them (`select overlap`).

    SCORES. Higher is better: the largest scores lower the loss on the target
    most. `score.NAME` is that of one set, `score_std.NAME` its standard
    deviation over the proxies, `score` the mean (or maximum) over the sets.
    Linear scores do not see that two copies of a row are redundant: combine
    with `mixstream prune dedup`.

    DAMPING. With few rows for each feature, the solution amplifies noise; a
    damping c adds c times the mean eigenvalue. auto is 0 from 100 rows per
    feature on, otherwise 1. 0 with fewer rows than features is refused; inf
    compares gradients without a Gram matrix.

    COST. Features are read twice, block by block, by this process with all its
    threads: a million rows of 2,048 features take about two minutes for each
    proxy on one core. Time grows with the square of the features, and is little
    beside that of `attribute features`, so there are no parts. Memory: 64 bytes
    for each pair of features, 1 GB for 4,096, whatever the number of rows.

    Args:
        features: what `mixstream attribute features` made.
        target: NAME=PATH of a target set; may be repeated.
        damping: auto, inf, or a number from 0 on.
        aggregate: how `score` combines several sets.
        unit_norm: scale features to length 1, so that long gradients do not count more.
        model: the proxies, if they lie elsewhere now.
        tokenizer: of texts in targets: a tokenizer.json, its directory, or bytes; default: that of the first proxy.
        device: for the gradients of targets.
        memory: for the gradients of targets.
        as_json: print one JSON document, not tables.
    """
    run = ScoreRun(
        features=features,
        output=output,
        damping=_damping(damping),
        how=aggregate,
        unit=unit_norm,
        console=Console(as_json=as_json),
    )
    sets = _targets(target)
    if output.dry_run:
        run.show_plan(sets)
    else:
        run.run(sets, models=model, tokenizer=tokenizer, device=device_of(device), memory=parse_bytes(memory))
    return 0


def _targets(texts: Sequence[str]) -> dict[str, str]:
    sets: dict[str, str] = {}
    for text in texts:
        found = _TARGET.fullmatch(text)
        if found is None:
            raise ConfigError(f"--target {text}: give NAME=PATH, as in qa=questions.jsonl")
        if found[1] in sets:
            raise ConfigError(f"--target {found[1]} is given twice: each set needs a name of its own")
        sets[found[1]] = found[2]
    if not sets:
        raise ConfigError("no --target is given: name what the rows should help with, as in qa=questions.jsonl")
    return sets


def _damping(text: str) -> Damping:
    if text == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise ConfigError(f"--damping {text}: give auto, inf, or a number from 0 on")
    return value
