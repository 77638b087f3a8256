"""`lightning.MixData` in real runs of Lightning's Trainer, in one process: batches, checkpoints, silent ways."""

from __future__ import annotations

import csv
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import joined
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.data.collate import collate_samples
from mixstream.errors import ConfigError, StateError

sys.path.append(str(Path(__file__).parent))

pytestmark = [
    pytest.mark.filterwarnings("ignore:::lightning.*"),
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]
EPOCH = 12  # steps
ODM = ms.mixers.ODM()


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Import Lightning with the first test: every worker collects this file, and forks what it has in memory."""
    global ADO, QUIET, CSVLogger, L, MixData, Model, ModelCheckpoint, Tuner, Validated  # noqa: PLW0603
    global dataset, rows, steps, write_text  # noqa: PLW0603
    pytest.importorskip("lightning.pytorch")
    import lightning.pytorch as L
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.tuner import Tuner
    from lightning_job import ADO, QUIET, Model, Validated, dataset, rows, steps, write_text

    from mixstream.integrations.lightning import MixData


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def plain(root) -> list[Any]:
    """The batches of a plain loop: four epochs."""
    with ms.Loader(dataset(root)) as loader:
        return joined([batch["tokens"].tolist() for batch in loader] for _ in range(4))


def fit(model: Model, data: Any, ckpt: Any = None, **options: Any) -> L.Trainer:
    trainer = L.Trainer(**{**QUIET, **options})
    trainer.fit(model, datamodule=data, ckpt_path=ckpt)
    return trainer


def saving(directory: Path, **options: Any) -> dict[str, Any]:
    """Options of a Trainer that saves after each optimizer step."""
    options = {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}", **options}
    return {"enable_checkpointing": True, "callbacks": [ModelCheckpoint(directory, **options)]}


def texts(run: Any) -> list[str]:
    """Return the warnings of `run`."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in found]


# --- batches, losses and weights --------------------------------------------------------------------------------------


def compared(root: Path, out: Path, mixer: Any, epochs: int) -> dict[str, Any]:
    """Return a run of Lightning, with its log, and the same in a plain loop."""
    data, model = MixData(dataset(root, mixer=mixer), log=out / "log"), Model()
    logger = CSVLogger(str(out), name="csv", version=0)
    fit(model, data, max_epochs=epochs, logger=logger, log_every_n_steps=3)

    loop, by_hand, weights = Model(), [], []
    optimizer = loop.configure_optimizers()
    sums = {name: [0.0, 0.0] for name in data.loader.dataset.domain_names}
    means = []
    with ms.Loader(dataset(root, mixer=mixer)) as loader:
        while loader.step < epochs * EPOCH:
            for batch in loader:
                loss = loop.loss(batch)
                loss.mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                loader.report(batch, loss)
                by_hand.append(batch["tokens"].tolist())
                for name, row in zip([list(sums)[k] for k in batch.domain], loss.detach().double()):
                    sums[name] = [sums[name][0] + row.sum().item(), sums[name][1] + len(row)]
                if loader.step % 3 == 0:
                    means.append({name: total / count for name, (total, count) in sums.items() if count})
                    sums = {name: [0.0, 0.0] for name in sums}
        loader.state_dict()
        weights = loader.weights
    table = list(csv.DictReader((out / "csv/version_0/metrics.csv").read_text().splitlines()))
    return {"model": model, "data": data, "by_hand": by_hand, "weights": weights, "means": means, "table": table}


@pytest.fixture(scope="module")
def learned(root, tmp_path_factory) -> dict[str, Any]:
    return compared(root, tmp_path_factory.mktemp("learned"), ODM, 3)


def test_the_weights_of_ado_move_as_in_a_plain_loop(root, tmp_path):
    found = compared(root, tmp_path, ADO, 3)
    assert rows(found["model"]) == found["by_hand"]
    assert found["data"].loader.weights == found["weights"]
    assert max(abs(weight - 1 / 3) for weight in found["weights"].values()) > 0.003
    assert len({line["weight/code"] for line in found["table"]}) > 3


def test_lightning_trains_on_the_batches_of_a_plain_loop_and_its_mixer_learns_the_same(learned):
    assert rows(learned["model"]) == learned["by_hand"]
    assert learned["data"].loader.weights == learned["weights"]
    assert max(abs(weight - 1 / 3) for weight in learned["weights"].values()) > 0.003


def test_losses_and_weights_by_domain_are_in_the_log_of_lightning(learned):
    table = learned["table"]
    assert [int(line["step"]) for line in table] == list(range(2, 3 * EPOCH, 3))
    for line, means in zip(table, learned["means"], strict=True):
        for name, mean in means.items():
            assert float(line[f"loss/{name}"]) == pytest.approx(mean, abs=1e-5)
    assert len({line["weight/code"] for line in table}) > 3
    assert sum(float(table[-1][f"weight/{name}"]) for name in ("code", "prose", "mail")) == pytest.approx(1)


def test_one_trainer_fits_twice_and_another_goes_on(root, plain):
    model, data = Model(), MixData(dataset(root))
    trainer = fit(model, data, max_steps=5)
    trainer.fit_loop.epoch_loop.max_steps = 9
    trainer.fit(model, datamodule=data)
    fit(model, data, max_steps=3)
    assert rows(model) == plain[:12]


@pytest.mark.parametrize("limit", [5, 0.25, 12])
def test_limited_epochs_leave_out_nothing_and_are_all_of_the_same_length(root, plain, limit):
    model = Model()
    trainer = fit(model, MixData(dataset(root)), max_epochs=3, limit_train_batches=limit, accumulate_grad_batches=2)
    length = limit if isinstance(limit, int) else int(limit * EPOCH)
    assert rows(model) == plain[: 3 * length]
    assert [epoch for _, _, epoch in model.seen] == joined([epoch] * length for epoch in range(3))
    assert trainer.global_step == 3 * -(-length // 2)  # the last batches of an epoch are a step, too


def test_a_run_whose_domains_are_used_up_ends(root):
    streams = [ms.Stream(name=name, remote=str(root / name), split="train", max_epochs=1) for name in ("code", "mail")]
    used_up = ms.StreamingDataset(streams=streams, batch_size=16, shuffle=True, mixer=ms.mixers.Stratified())
    model = Model()
    assert any("max_epochs" in text for text in texts(partial(fit, model, MixData(used_up), max_epochs=5)))
    assert steps(model) == list(range(8))


def test_a_batch_stays_its_step_under_another_precision(root):
    model, data = Model(), MixData(dataset(root, mixer=ODM))
    fit(model, data, max_steps=6, precision="bf16-true")
    assert steps(model) == list(range(6))


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(root, tmp_path_factory) -> Path:
    """Checkpoints after each of two epochs' steps, of a run under a mixer that learns."""
    out = tmp_path_factory.mktemp("saved")
    fit(Model(), MixData(dataset(root, mixer=ODM)), max_epochs=2, **saving(out))
    return out


@pytest.mark.parametrize(("at", "touch"), [(5, True), (12, False), (17, False), (24, True)])
def test_a_resumed_run_is_the_run_that_was_not_stopped(root, learned, saved, at, touch):
    """At mid-epoch, at an epoch's end; with `estimated_stepping_batches`, on which Lightning drops loaders' states."""
    model, data = Model(touch=touch), MixData(dataset(root, mixer=ODM))
    fit(model, data, saved / f"step={at}.ckpt", max_epochs=3)
    assert model.seen == learned["model"].seen[at:]
    assert data.loader.weights == learned["weights"]


def test_a_state_in_both_places_is_loaded_once(root, saved, monkeypatch):
    loads, load = [], ms.Loader.load_state_dict
    monkeypatch.setattr(ms.Loader, "load_state_dict", lambda *args, **kw: (loads.append(args), load(*args, **kw)))
    checkpoint = torch.load(saved / "step=5.ckpt", weights_only=False)
    assert checkpoint["MixData"] == checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    fit(Model(), MixData(dataset(root, mixer=ODM)), saved / "step=5.ckpt", max_epochs=1)
    assert len(loads) == 1


@pytest.mark.parametrize("touch", [False, True])
def test_a_checkpoint_of_a_class_of_another_name_is_loaded_or_refused(root, learned, saved, touch):
    class Renamed(MixData):
        pass

    model = Model(touch=touch)
    resume = partial(fit, model, Renamed(dataset(root, mixer=ODM)), saved / "step=5.ckpt", max_epochs=1)
    if touch:
        with pytest.raises(StateError, match=r"has no position of this data .*strict=False"):
            resume()
    else:
        resume()
        assert model.seen == learned["model"].seen[5:12]


def test_other_data_begins_at_its_start_if_that_is_wanted(root, plain, tmp_path):
    out = tmp_path / "plain.ckpt"
    trainer = L.Trainer(**QUIET, max_steps=2)
    trainer.fit(Model(), DataLoader(dataset(root), batch_size=16, collate_fn=collate_samples))
    trainer.save_checkpoint(out)
    with pytest.raises(StateError, match="has no position of this data"):
        fit(Model(), MixData(dataset(root)), out, max_steps=9)
    model = Model()
    fit(model, MixData(dataset(root), strict=False), out, max_steps=9)
    assert rows(model) == plain[:7]


@pytest.mark.parametrize("at", [4, 6])
def test_a_checkpoint_between_the_batches_of_an_optimizer_step_has_all_reports_and_warns(root, tmp_path, at):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *args) -> None:
            if trainer.fit_loop.batch_idx + 1 == at and not trainer.current_epoch:
                trainer.save_checkpoint(tmp_path / "within.ckpt")

    options = {"max_epochs": 2, "accumulate_grad_batches": 4}
    data, model = MixData(dataset(root, mixer=ODM), log=tmp_path / "log"), Model()
    found = texts(partial(fit, model, data, callbacks=[Save()], **options))
    assert sum("Lightning does not save, and a resume reads only the rest" in text for text in found) == bool(at % 4)
    again, resumed = MixData(dataset(root, mixer=ODM)), Model()
    fit(resumed, again, tmp_path / "within.ckpt", **options)
    assert steps(resumed) == list(range(at, 24))
    alike = 2 if at % 4 else 24 - at  # up to the optimizer step, which lacks what Lightning did not save
    assert resumed.seen[:alike] == model.seen[at : at + alike]
    assert resumed.losses[:alike] == model.losses[at : at + alike]


@pytest.mark.parametrize(("interval", "every"), [(0.5, 1), (4, 4)])
def test_validation_between_batches_moves_nothing(root, plain, tmp_path, interval, every):
    val = {"validation": {"rows": 8}}
    options = {"val_check_interval": interval, "accumulate_grad_batches": every, "num_sanity_val_steps": 2}
    save = saving(tmp_path, every_n_train_steps=None, monitor="val", save_on_train_epoch_end=False)
    model = Validated()
    fit(model, MixData(dataset(root), **val), max_epochs=2, **save, **options)
    assert rows(model) == plain[:24]
    found = sorted(tmp_path.iterdir())
    assert len(found) > 3
    for path in found[:3]:
        at, resumed = int(path.stem.partition("=")[2]) * every, Validated()
        fit(resumed, MixData(dataset(root), **val), path, max_epochs=3, **options)
        assert rows(resumed) == plain[at:36]


@pytest.mark.parametrize("touch", [False, True])
def test_reloaded_dataloaders_go_on(root, plain, saved, touch):
    model, options = Model(touch=touch), {"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}
    fit(model, MixData(dataset(root)), **options)
    assert rows(model) == plain[:36]
    resumed = Model(touch=touch)
    fit(resumed, MixData(dataset(root, mixer=ODM)), saved / "step=17.ckpt", **options)
    assert steps(resumed) == list(range(17, 36))


# --- what Lightning would do to the data ------------------------------------------------------------------------------


def test_the_tuner_finds_a_learning_rate_and_no_batch_size(root, learned, tmp_path):
    model, data = Model(), MixData(dataset(root, mixer=ODM))
    options: dict[str, Any] = {**QUIET, "max_epochs": 1, "default_root_dir": tmp_path}  # where it leaves files
    trainer = L.Trainer(**options)
    model.lr = 0.1
    Tuner(trainer).lr_find(model, datamodule=data, num_training=5, update_attr=False)
    assert steps(model) == list(range(5))
    assert data.loader.step == 0
    model.seen.clear()
    trainer.fit(model, datamodule=data)
    assert model.seen == learned["model"].seen[:12]
    model.save_hyperparameters({"batch_size": 4})
    with pytest.raises(ConfigError, match="scale_batch_size cannot change batch_size=16"):
        Tuner(L.Trainer(**options)).scale_batch_size(model, datamodule=data)


def loaders(root: Path) -> dict[str, Any]:
    """What users may fit instead of a MixData."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    options: dict[str, Any] = {"batch_size": 16, "collate_fn": collate_samples}
    return {
        "Loader": lambda: ms.Loader(dataset(root)),
        "StreamingDataLoader": lambda: ms.StreamingDataLoader(dataset(root), batch_size=16),
        "StatefulDataLoader": lambda: stateful(dataset(root), **options),
        "plain": lambda: DataLoader(dataset(root), **options),
    }


def run(make: Any, ckpt: Any = None, touch: bool = False, **options: Any) -> Model:
    model = Model(touch=touch)
    L.Trainer(**{**QUIET, **options}).fit(model, make(), ckpt_path=ckpt)
    return model


@pytest.mark.parametrize("at", [5, 12])
@pytest.mark.parametrize("kind", ["Loader", "StreamingDataLoader", "StatefulDataLoader", "plain"])
def test_other_loaders_resume_exactly_or_are_refused(root, plain, tmp_path, kind, at):
    make = loaders(root)[kind]
    assert rows(run(make, max_steps=at, max_epochs=2, **saving(tmp_path, every_n_train_steps=at))) == plain[:at]
    path = tmp_path / f"step={at}.ckpt"
    if kind == "plain":
        with pytest.raises(StateError, match=r"loaded no state into this data.*MixData\(dataset\)"):
            run(make, path, max_epochs=3)
    elif kind == "StatefulDataLoader" and at == EPOCH:
        with pytest.raises(StateError, match="end of an epoch, of which nothing is left"):
            run(make, path, max_epochs=3)
    else:
        assert rows(run(make, path, max_epochs=3)) == plain[at:36]
    with pytest.raises(StateError, match="estimated_stepping_batches"):  # whatever the checkpoint has
        run(make, path, touch=True, max_epochs=3)


def test_a_plain_dataloader_in_the_order_of_mosaicml_streaming_does_not_begin_anew(root, tmp_path):
    def make() -> DataLoader:
        return DataLoader(dataset(root, order="mosaic"), batch_size=16, collate_fn=collate_samples)

    run(make, max_steps=5, max_epochs=2, **saving(tmp_path, every_n_train_steps=5))
    with pytest.raises(StateError, match="loaded no state into this data"):
        run(make, tmp_path / "step=5.ckpt", max_epochs=3)


def test_a_plain_dataloader_goes_on_from_a_state_that_was_loaded_by_hand(root, plain, tmp_path):
    out = tmp_path / "step=12.ckpt"
    make = partial(DataLoader, batch_size=16, collate_fn=collate_samples)
    run(lambda: make(dataset(root)), max_epochs=1, **saving(tmp_path, every_n_train_steps=EPOCH))
    again = dataset(root)
    with ms.Loader(dataset(root)) as loader:
        assert len(list(loader)) == EPOCH
        again.load_state_dict(loader.state_dict())
    model = run(lambda: make(again), out, max_epochs=2)
    assert rows(model) == plain[12:24]


def test_validation_data_may_begin_anew_in_a_resumed_run(root, saved):
    val = DataLoader(dataset(root), batch_size=16, collate_fn=collate_samples)
    model = Validated()
    fit(model, MixData(dataset(root, mixer=ODM), validation=val), saved / "step=5.ckpt", max_epochs=1)
    assert steps(model) == list(range(5, 12))


@pytest.mark.parametrize("kind", ["Loader", "StreamingDataLoader", "plain", "MixData"])
def test_overfitting_on_the_same_batches_is_refused(root, kind):
    error = ValueError if kind == "Loader" else ConfigError  # Lightning wants a DataLoader there
    text = "needs to subclass" if kind == "Loader" else r'sampling_method="fixed"'
    start = partial(run, loaders(root)[kind]) if kind != "MixData" else partial(fit, Model(), MixData(dataset(root)))
    with pytest.raises(error, match=text):
        start(overfit_batches=3)


def test_ranks_that_lightning_does_not_know_of_are_refused(root, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match=r"rank 1 of 2, and for SingleDeviceStrategy this is rank 0 of 1 .*read twice or never"
    ):
        fit(Model(), MixData(dataset(root, 2)), max_steps=1)


def test_processes_that_keep_the_position_to_themselves_are_warned_of(root, tmp_path, monkeypatch):
    data = MixData(dataset(root))
    data.trainer = L.Trainer(**{**QUIET, "strategy": "ddp_fork"})
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    assert any("a second fit would read rows again" in text for text in texts(lambda: data.setup("fit")))


def test_an_exception_in_training_is_the_one_that_is_raised(root):
    class Failing(Model):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if batch.step == 3:
                raise ArithmeticError("lost")
            return super().training_step(batch, batch_idx)

    data = MixData(dataset(root, mixer=ODM))
    with pytest.raises(ArithmeticError, match="lost"):
        fit(Failing(), data, max_steps=5)
    assert data.loader.step == 4


def test_fabric_saves_and_loads_a_loader_as_it_is(root, plain, tmp_path):
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    model, loader = torch.nn.Linear(2, 2), ms.Loader(dataset(root))
    batches = iter(loader)
    seen = [fabric.to_device(next(batches))["tokens"].tolist() for _ in range(5)]
    fabric.save(tmp_path / "fabric.ckpt", {"model": model, "data": loader})
    loader.close()
    with ms.Loader(dataset(root)) as again:
        fabric.load(tmp_path / "fabric.ckpt", {"model": model, "data": again})
        seen.append(next(iter(again))["tokens"].tolist())
    assert seen == plain[:6]
