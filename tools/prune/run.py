"""`mixstream prune run`: fit, assign and keep, one after the other."""

from __future__ import annotations

from mixstream.errors import OutputExistsError
from mixstream.selection.prototypes import KMeans

from ..shared.console import Console
from ..shared.numbers import MaybeShare, Seed, Share
from ..shared.options import Controls, Json, controls_of, device_of
from ..shared.outputs import Output
from .assign import assign_domains, assign_table
from .fit import fit_domains, fit_table
from .inputs import parse_k
from .iterations import FitOptions
from .keep import Rule, keep_domains, keep_table
from .options import Device, KMeansEngine, Names, Side, Unit


def run(
    *,
    emb: str,
    side: Side,
    fraction: Share,
    by: Unit = "rows",
    outlier_cut: MaybeShare = None,
    control: Controls = (),
    k: str = "sqrt",
    seed: Seed = 0,
    engine_kmeans: KMeansEngine = "torch",
    column: str | None = None,
    device: Device = "auto",
    domain: Names = (),
    output: Output,
    where: FitOptions | None = None,
    as_json: Json = False,
) -> None:
    """Prune in one go: prototypes, distances, and the rows to keep.

    mixstream embed shards/ --out emb/
    mixstream prune run --emb emb/ --side hard --fraction 0.8 --out pruned/

    In training:  ms.Stream(remote="shards/web", selection="pruned/selection")

    The same as `fit`, `assign` and `keep`, whose --help explains the options
    and has more of them. The results are in OUT/prototypes, OUT/scores and
    OUT/selection, a directory for each domain. What is there already is not
    done again. To try another share, give the scores to `keep`:

    mixstream prune keep --scores pruned/scores --side hard --fraction 0.5 \\
        --out pruned/hard50

    Args:
        emb: embeddings, as `mixstream embed` writes them.
        side: `hard` or `easy`; there is no default, see `mixstream prune keep --help`.
        fraction: the share of each domain to keep, above 0 and at most 1.
        by: what --fraction counts: rows or tokens.
        outlier_cut: the share of rows, by distance, that may be kept at all, such as 0.995.
        control: `random`, `inverse`, or random,inverse: also OUT/selection-random, OUT/selection-inverse.
        k: prototypes of a domain: `sqrt` (the root of its rows, from 64 to 65,536) or a number.
        seed: of k-means and of --control random.
        engine_kmeans: `torch`, or `faiss` (pip install faiss-cpu).
        column: the column of the embeddings, if there are several.
        device: where to compute; `auto` takes a GPU if there is one.
        domain: domains to look at; default: all in EMB.
        where: see `FitOptions`; `assign` runs there too.
        as_json: print one JSON document, not tables.
    """
    console, where = Console(as_json=as_json), where or FitOptions()
    settings = KMeans(k=parse_k(k), seed=seed, engine=engine_kmeans, device=device_of(device))
    rule = Rule(side=side, by=by, fraction=fraction, outlier_cut=outlier_cut, seed=seed)  # checked before the work
    controls = controls_of(control)
    prototypes, scores, selection = (output.below(name) for name in ("prototypes", "scores", "selection"))
    fitted = fit_domains(emb, prototypes, settings, console, where=where, column=column, domain=domain)
    if output.dry_run:  # what follows needs the prototypes
        console.result({"status": output.status, "prototypes": fitted}, fit_table(fitted))
        return
    assigned = assign_domains(
        emb, [prototypes.out], scores, console, options=where.parts, column=column,
        device=settings.device, domain=domain,
    )  # fmt: skip
    try:
        kept = keep_domains(scores.out, selection, rule, controls=controls, domain=domain)
    except OutputExistsError as error:
        raise OutputExistsError(
            f"{error}; to try another rule, give the scores to `mixstream prune keep --scores {scores.out} --out ...`"
        ) from None
    ends = [{**each, "mean_cosine": each["mean_cosine"][:: max(len(each["mean_cosine"]) - 1, 1)]} for each in fitted]
    document = {"status": "ok", "prototypes": ends, "scores": assigned, "selections": kept}
    console.result(document, fit_table(fitted), "", assign_table(assigned), "", keep_table(kept))
