"""What is refused: one line that names the key and the value, exit code 2, and nothing written."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Regrun

from runner.data.idx import NAMES, fashion_mnist

# The command, and what its one line must hold.
LONG = (  # a stack whose name no folder can have
    "elastic_net,group_lasso,orthogonal,activity_l1,kl_sparsity,logit_penalty,confidence_penalty,spectral_penalty,"
    "weight_decay,label_smoothing,gradient_noise,input_noise,hidden_noise,weight_noise,drop_connect,gaussian_dropout,"
    "dropout,l1,l2,mixup,early_stopping,lookahead"
)
CASES: list[tuple[str, list[str]]] = [
    # names that are not on the menu
    ("method=dropuot", ["no method 'dropuot'", "did you mean 'dropout'?", "conf/method"]),
    ("method=dropout,dropuot -m", ["no method 'dropuot'", "did you mean 'dropout'?"]),
    ("method=", ["no method ''", "conf/method has"]),
    ("data=mnist1dd", ["no data 'mnist1dd'", "did you mean 'mnist1d'?"]),
    ("model=mpl", ["no model 'mpl'", "did you mean 'mlp'?"]),
    ("optimizer=sgdd", ["no optimizer 'sgdd'", "did you mean 'sgd'?"]),
    ("protocol=tund", ["no protocol 'tund'", "did you mean 'tuned'?"]),
    ("protocol.name=other", ["no protocol 'other'", "fixed, search, smoke, tuned"]),
    ("experiment=breif", ["no experiment 'breif'", "did you mean 'brief'?"]),
    (f"experiment={'x' * 300}", ["no experiment 'xxx"]),
    ("data=null", ["no data 'null'", "digits"]),
    ("model=3", ["no model '3'", "mlp"]),
    ("++data=null", ["no data 'null'", "digits"]),
    ("-m data=digits,null", ["no data 'null'"]),
    ("data=[digits,mnist1d]", ["data is [digits,mnist1d]", "one of breast_cancer, "]),
    # misspelt settings
    ("epochz=3", ["no setting 'epochz'", "did you mean 'epochs'?", "conf/config.yaml"]),
    ("+epochz=3", ["no setting 'epochz'", "did you mean 'epochs'?"]),
    ("optimizer.lrr=0.1", ["no setting 'optimizer.lrr'", "did you mean 'lr'?", "conf/optimizer"]),
    ("method=dropout method.dropout.rat=0.1", ["no setting 'method.dropout.rat'", "did you mean 'rate'?"]),
    ("method=l1 +method.l1.rat=0.1", ["no setting of method.l1 'rat'", "did you mean 'rate'?"]),
    ("model.wide=3", ["no setting 'model.wide'", "did you mean 'width'?"]),
    ("+data.rooot=x", ["data: got an unexpected keyword argument 'rooot'", "pool, test, seed"]),
    ("~epochs", ["epochs is missing", "conf/config.yaml"]),
    ("~optimizer.lr", ["optimizer.lr is missing"]),
    # strengths
    (
        "method=dropout method.dropout.rate=1.5",
        ["method.dropout.rate is 1.5", "at least 0 and below 1", "dropout.yaml"],
    ),
    ("method=dropout method.dropout.rate=-0.1", ["method.dropout.rate is -0.1", "at least 0 and below 1"]),
    ("method=dropout method.dropout.rate=nan", ["method.dropout.rate is nan", "finite"]),
    ("method=dropout method.dropout.rate=inf", ["method.dropout.rate is inf", "finite"]),
    ("method=dropout method.dropout.rate=abc", ["method.dropout.rate is 'abc'", "number"]),
    ("method=dropout method.dropout.rate=true", ["method.dropout.rate is True", "number"]),
    ("method=dropout method.dropout.rate=null", ["method.dropout.rate is None", "number"]),
    ("method=dropout method.dropout.rate=[]", ["method.dropout.rate is []", "at least one number"]),
    ("method=dropout method.dropout.rate=[0.1,0.1]", ["method.dropout.rate is [0.1, 0.1]", "twice"]),
    ("method=dropout method.dropout.rate=[0.1,2]", ["method.dropout.rate is 2", "below 1"]),
    ("method=dropout method.dropout.rate=[0.1,nan]", ["method.dropout.rate is nan", "finite"]),
    ("method=dropout,l2 method.dropout.rate=0.1,2 -m", ["method.dropout.rate is 2", "below 1"]),
    ("method=early_stopping method.early_stopping.patience=1.5", ["patience is 1.5", "whole number and at least 1"]),
    ("method=l1 method.l1.form=prox", ["method.l1.form is 'prox'", "proximal, subgradient"]),
    ("method=l1 method.l1.biases=1", ["method.l1.biases is 1", "true or false"]),
    ("method=l1 method.l1=3", ["method.l1 is 3", "conf/method/l1.yaml"]),
    # stacks
    ("method=[dropout,dropout]", ["method is [dropout,dropout]", "dropout stands in the stack twice"]),
    ("method=[l2,dropout,l2],none -m", ["l2 stands in the stack twice"]),
    ("method.l2.rate=0.1", ["method.l2.rate", "no method 'l2'", "method=l2"]),
    ("method=dropout method.l2.rate=0.1", ["method.l2.rate", "no method 'l2'", "method=[...,l2]"]),
    ("method=dropout,l1 method.l2.rate=0.1 -m", ["method.l2.rate=", "no job of this sweep has the method 'l2'"]),
    ("method=dropout,l2", ["method=dropout,l2", "add -m"]),
    ("epochs=1,2", ["epochs=1,2", "add -m"]),
    ("-m study=a,b", ["study has several values"]),
    ("-m seeds=2,3", ["seeds has several values"]),
    ("-m ++seeds=2,3", ["seeds has several values"]),
    ("-m method=l1 ++method.l2.rate=1,2", ["++method.l2.rate=1", "no job of this sweep has the method 'l2'"]),
    ("-m optimizer=adam,sgd", ["optimizer has several choices", "a study for each"]),
    ("-m protocol=fixed,tuned", ["protocol has several choices"]),
    ("-m epochs=1,x", ["epochs is 'x'"]),
    # numbers
    ("seeds=0", ["seeds is 0", "whole number from 1"]),
    ("seeds=-1", ["seeds is -1"]),
    ("seeds=1.5", ["seeds is 1.5"]),
    ("seeds=true", ["seeds is True"]),
    ("method=l2 seeds=1000000000", ["seeds is 1000000000", "at most 1000000 runs"]),
    ("-m method=l2 epochs=range(1,1000000000)", ["a sweep of 999999999 jobs", "the most is 100000"]),
    ("-m method=l2 epochs=range(1,9,1e-9)", ["a sweep of 800000000"]),
    ("-m method=l2 epochs=range(1,9,0)", ["epochs=range(1,9,0)"]),
    ("-m method=l2 seed0=range(3,3)", ["seed0=range(3,3) has no values", "(seed0=...)"]),
    ("-m method=l2,l1 epochs=range(9,1)", ["epochs=range(9,1) has no values"]),
    ("-m 'method=glob(zzz*)'", ["method=glob(zzz*) has no values", "(method=...)"]),
    ("protocol=search method=l2 protocol.trials=1000000000", ["protocol.trials is 1000000000"]),
    ("seed0=-1", ["seed0 is -1", "whole number from 0"]),
    ("seed0=abc", ["seed0 is 'abc'"]),
    ("seed0=99999999999", ["seed0 is 99999999999", "2147483647"]),
    ("epochs=1e3", ["epochs is 1000.0", "whole number"]),
    ("epochs=abc", ["epochs is 'abc'"]),
    ("epochs=null", ["epochs is None"]),
    ("epochs=???", ["epochs: Missing mandatory value"]),
    ("batch_size=0", ["batch_size is 0"]),
    ("batch_size=5000", ["batch_size is 5000", "4000 training examples"]),
    ("evaluate.every=0", ["evaluate.every is 0"]),
    ("evaluate.predictions=3", ["evaluate.predictions is 3", "true or false"]),
    ("evaluate=3", ["evaluate is 3", "conf/config.yaml"]),
    ("dtype=int8", ["dtype is 'int8'", "float32, float64, bfloat16"]),
    ("dtype=[float32]", ["dtype is ['float32']"]),
    ("device=tpu", ["device is 'tpu'", "auto, cpu or cuda"]),
    ("lanes=many", ["lanes is 'many'"]),
    ("threads=0", ["threads is 0"]),
    ("workers=0", ["workers is 0"]),
    ("penalize_biases=maybe", ["penalize_biases is 'maybe'", "true or false"]),
    ("progress=1", ["progress is 1"]),
    ("optimizer.lr=nan", ["optimizer.lr is nan"]),
    ("optimizer.lr=-1", ["optimizer.lr is -1", "above 0"]),
    ("optimizer.lr=0", ["optimizer.lr is 0", "above 0"]),  # which trains nothing
    ("optimizer.lr=[0.1,0.1]", ["optimizer.lr is [0.1, 0.1]", "twice"]),
    (
        "method=ema 'method.ema.decay=[0.9000001,0.9000004]'",
        ["method.ema.decay is [0.9000001, 0.9000004]", "six digits"],
    ),
    (
        "-m method=l2,dropout method.l2.rate=0.2,0.5 protocol=tuned",
        ["method.l2.rate is 0.2; protocol=tuned takes it from a grid", "method.l2.rate=[0.2]", "protocol=fixed"],
    ),
    ("method=[dropout,l2] method.l2.rate=0.2 protocol=search", ["method.l2.rate is 0.2; protocol=search"]),
    (
        "-m method=augment 'method.augment.policy={shift: 1},{shift: 2}'",
        ["method.augment.policy is {", "letters, digits"],
    ),
    (f"method=[{LONG}] data=digits", ["has a name of", "at most 250", "stacks:"]),
    ("schedule=cosine schedule.warmup=2", ["schedule.warmup is 2"]),
    # data and model
    ("data=digits data.train_size=100000", ["data.train_size is 100000", "from 1 to 797"]),
    ("data=digits data.train_size=0", ["data.train_size is 0"]),
    ("data=digits data.train_size=1.5", ["data.train_size is 1.5"]),
    ("data=digits data.train_size=600", ["data.train_size=600", "data.val_size=400", "797"]),
    ("data=digits data.val_size=null", ["data.val_size is null"]),
    ("data.test_size=100", ["data.test_size is 100", "official test set"]),
    ("data.resplit=all", ["data.resplit is 'all'", "train_val or none"]),
    ("data.pool=abc", ["data.pool is 'abc'"]),
    ("data.pool=-5", ["data.pool is -5"]),
    ("data.test=0", ["data.test is 0"]),
    ("data.seed=-1", ["data.seed is -1"]),
    ("data.augment=3", ["data.augment is 3"]),
    ("data.label_noise=1.5", ["data.label_noise is 1.5", "from 0 to 1"]),
    ("data.label_noise=abc", ["data.label_noise is 'abc'"]),
    ("data.noise_form=other", ["data.noise_form is 'other'", "symmetric or pairwise"]),
    ("data.noisy_val=2", ["data.noisy_val is 2", "true or false"]),
    ("data.random_labels=1", ["data.random_labels is 1", "true or false"]),
    ("data.random_labels=true data.label_noise=0.1", ["data.label_noise is 0.1", "data.random_labels=true"]),
    ("data.imbalance=0.5", ["data.imbalance is 0.5", "at least 1"]),
    ("data.imbalance=nan", ["data.imbalance is nan"]),
    ("data.input_dim=0", ["data.input_dim is 0"]),
    ("data=wine data.input_dim=5", ["data.input_dim is 5", "wine is a table"]),
    ("~data.imbalance", ["data.imbalance is missing", "conf/data/base/splits.yaml"]),
    ("data=table data.target=y", ["data.path", "Missing mandatory value"]),
    ("data=table data.path=none.csv data.target=y", ["data.path is 'none.csv'", "not a file"]),
    ("data=table data.path=file data.target=y", ["file has no rows besides its header"]),
    ("data=table data.path=3 data.target=y", ["data.path is 3", "text"]),
    ("data=fashion_mnist data.root=cut", ["cut/train-images-idx3-ubyte is cut off"]),
    ("data=fashion_mnist data.root=foreign", ["foreign/train-images-idx3-ubyte is not an IDX file"]),
    ("data=fashion_mnist data.root=zipped", ["zipped/train-images-idx3-ubyte.gz is cut off"]),
    ("data=digits model=conv1d", ["model is 'conv1d'", "image examples of digits", "(1, 8, 8)"]),
    ("model=convnet", ["model is 'convnet'", "signal examples of mnist1d"]),
    ("data=digits model=alexnet_small model._target_=runner.nets.convolutional.conv1d", ["model: missing a required"]),
    ("model=alexnet_small", ["model is 'alexnet_small'", "signal examples of mnist1d", "(1, 40)"]),
    ("data=digits model=vit_small model.patch=3", ["model.patch is 3", "(8, 8)"]),
    ("data=digits model=vit_small model.heads=5", ["model.heads is 5", "model.width, 128"]),
    ("data=digits model=resnet20 model.depth=19", ["model.depth is 19", "6n + 2"]),
    ("data=digits model=resnet20 model.norm=group", ["model.norm is 'group'", "batch or none"]),
    ("data=digits model=resnet20 method=batch_norm", ["method.batch_norm", "BatchNormLayer", "model.norm=none"]),
    ("data=digits model=torchvision model.arch=resnet19", ["no torchvision model 'resnet19'", "'resnet18'"]),
    ("model=torchvision", ["model=torchvision needs images", "(1, 40)"]),
    ("data=digits model=torchvision model.arch=alexnet", ["model is 'torchvision_alexnet'", "(1, 8, 8)"]),
    ("marks=yes", ["marks is 'yes'", "null or show"]),
    ("-m marks=show method=l2", ["marks is 'show'", "leave -m out"]),
    ("-m marks=show,null", ["marks has several values"]),
    ("model.width=abc", ["model.width is 'abc'"]),
    ("model.width=0", ["model.width is 0"]),
    ("model=linear method=batch_norm", ["method.batch_norm", "no slots"]),
    ("data=mnist1d_paper method=early_stopping", ["data.val_size is 0", "early_stopping"]),
    ("data=mnist1d_paper method=l2 protocol=tuned", ["data.val_size is 0", "protocol=tuned"]),
    # tuning
    ("protocol=tuned protocol.tune_seeds=0", ["protocol.tune_seeds is 0"]),
    ("protocol=tuned protocol.select=test_acc", ["protocol.select is 'test_acc'", "val_acc or val_loss"]),
    ("method=[l1,l2] protocol=tuned method.l1.rate=[0.1,0.2]", ["equally long", "l1.rate has 2, l2.rate has 5"]),
    ("method=l1 protocol=tuned method.l1.grid.rate=[]", ["method.l1.grid.rate is []"]),
    ("method=l1 protocol=tuned method.l1.grid.rate=[1,1]", ["method.l1.grid.rate is [1, 1]", "twice"]),
    ("method=l1 protocol=tuned method.l1.grid=3", ["method.l1.grid is 3"]),
    # where results go
    ("out=file", ["out is 'file'", "cannot be written to"]),
    ("out=file/below -m method=l2", ["out is 'file/below'", "cannot be written to"]),
    ("out=/proc/regrun", ["out is '/proc/regrun'", "cannot be written to"]),
    ("out=null", ["out is None"]),
    ("study=a/b", ["study is 'a/b'"]),
    ("study=..", ["study is '..'"]),
    ("study=.hidden", ["study is '.hidden'"]),
    ("'study=\"a\nb\"'", ["study is 'a\\nb'"]),
    ("study=📈", ["study=📈"]),
    ("study=true", ["study is True"]),
    # targets
    ("model._target_=os.system", ["model._target_ is 'os.system'", "allow=[os]"]),
    ("model._target_=runner.nets.dense.nope", ["no attribute 'nope'"]),
    ("model._target_=runner.errors.Refusal", ["model._target_ is 'runner.errors.Refusal'"]),
    ("optimizer._target_=runner.nets.dense.mlp", ["optimizer._target_", "no optimizer"]),
    ("--config-dir mine method=foreign", ["method.foreign._target_ is 'os.system'", "allow=[os]"]),
    ("--config-dir mine method=opened", ["method.opened._target_ is 'os.system'", "allow=[os]"]),
    ("--config-dir mine method=broken", ["broken.yaml"]),
    ("--config-dir nowhere method=l2", ["nowhere' not found"]),
    ("allow=os", ["allow is 'os'", "list of names"]),
    ("axes=3", ["axes is 3"]),
    # what is no override at all
    ("a=b=c", ["'a=b=c' cannot be read"]),
    ("=3", ["'=3' cannot be read"]),
    ("epochs", ["'epochs' cannot be read"]),
    ("epochs=[1,2", ["'epochs=[1,2' cannot be read"]),
]


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
BOMB += "\n".join(f"a{n}: &a{n} [{','.join(10 * [f'*a{n - 1}'])}]" for n in range(1, 9))


def _surroundings(here: Path) -> set[str]:
    """Files that the cases speak of; gives the names of all that is there."""
    (here / "file").write_text("in the way")
    parts = {
        "cut": b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (5, 28, 28)) + bytes(100),
        "foreign": b"hello",
        "zipped": gzip.compress(b"hello")[:12],
    }
    for folder, content in parts.items():
        (here / folder).mkdir()
        for name in NAMES:
            (here / folder / (f"{name}.gz" if folder == "zipped" else name)).write_bytes(content)
    mine = here / "mine" / "method"
    mine.mkdir(parents=True)
    (mine / "foreign.yaml").write_text("foreign:\n  _target_: os.system\n")
    (mine / "opened.yaml").write_text("# @package _global_\nallow: [os]\nmethod:\n  opened:\n    _target_: os.system\n")
    (mine / "broken.yaml").write_text("broken: [\n")
    return _present(here)


def _present(here: Path) -> set[str]:
    return {str(path) for path in here.rglob("*")}


@pytest.mark.parametrize(("command", "said"), CASES, ids=[command for command, _ in CASES])
def test_bad_input_is_one_line_and_leaves_nothing(
    regrun: Regrun, tmp_path: Path, command: str, said: list[str]
) -> None:
    before = _surroundings(tmp_path)
    fashion_mnist.cache_clear()
    told = regrun(*shlex.split(command))
    assert told.code == 2
    assert told.out == ""
    assert len(told.err.splitlines()) == 1, told.err
    assert told.err.startswith("regrun: ")
    for part in said:
        assert part in told.err
    assert _present(tmp_path) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none(regrun: Regrun, tmp_path: Path) -> None:
    told = regrun("device=cuda")
    assert (told.code, told.err.count("\n"), _present(tmp_path)) == (2, 1, set())
    assert "device is 'cuda'" in told.err


def test_a_study_with_other_settings_is_refused_and_kept(regrun: Regrun, tmp_path: Path) -> None:
    small = ["data=digits", "protocol=smoke", "study=first", "progress=false"]
    assert regrun(*small).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for other in (["epochs=3"], ["-m", "epochs=3", "method=l2"]):
        told = regrun(*small, *other)
        assert told.code == 2
        assert len(told.err.splitlines()) == 1
        assert "study 'first' has epochs=2 and this command says 3" in told.err
    told = regrun(*small, "epochs=3", "batch_size=20", "optimizer.lr=0.5")
    assert "2 more: epochs, optimizer.lr" in told.err  # batch_size comes first in the alphabet
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", ["method=dropuot", "epochs=0", "method=dropout,l2 method.dropout.rate=2 -m"])
def test_bad_input_in_a_process_of_its_own(tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli", *shlex.split(command)],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONWARNINGS": "always"},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert _present(tmp_path) == set()


def test_aliases_that_would_fill_the_memory_are_refused(regrun: Regrun, tmp_path: Path) -> None:
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "bomb.yaml").write_text(BOMB, encoding="utf-8")
    told = regrun("--config-dir", str(tmp_path / "mine"), "method=bomb")
    assert (told.code, told.err.count("\n")) == (2, 1)
    # a0 has 11 values, itself and ten texts, a1 1 + 10 * 11 = 111, and so on to ten ones; the sum of these nine is
    # 1,234,567,899, and there are nine keys and the whole
    assert "bomb.yaml comes to 1234567909 values" in told.err


@pytest.mark.parametrize("form", ['["{}"]', '"x{}"'])
def test_interpolations_that_would_fill_the_memory_are_refused(regrun: Regrun, tmp_path: Path, form: str) -> None:
    """Lists of lists and texts of texts, which come to 10^9 values."""
    last = form.format("${method.bomb.a8}")
    lines = ["bomb:", "  _target_: runner.methods.weight_penalties.L2", f"  rate: {last}", "  a0: x"]
    for n in range(1, 9):
        ten = [f"${{method.bomb.a{n - 1}}}"] * 10
        lines.append(f"  a{n}: " + (json.dumps(ten) if form[0] == "[" else json.dumps("".join(ten))))
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "bomb.yaml").write_text("\n".join(lines), encoding="utf-8")
    told = regrun("--config-dir", str(tmp_path / "mine"), "method=bomb", "data=digits")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "interpolations of groups, lists or parts of texts" in told.err


def test_lists_that_multiply_are_refused(regrun: Regrun, tmp_path: Path) -> None:
    many = ",".join(f"{n / 200}" for n in range(1, 102))
    each = [f"{key}=[{many}]" for key in ("method.l1.rate", "method.l2.rate", "optimizer.lr")]
    told = regrun("method=[l1,l2]", "data=digits", *each)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "have 1030301 combinations" in told.err


@pytest.mark.parametrize(
    ("text", "said"), [("FALSE", "cannot be read"), ("-", "method is [None]"), ("- l2", "method is")]
)
def test_a_file_that_holds_no_mapping_is_refused(regrun: Regrun, tmp_path: Path, text: str, said: str) -> None:
    """Found by the fuzz: omegaconf raises an OSError for a value alone, and takes a list."""
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "odd.yaml").write_text(f"{text}\n", encoding="utf-8")
    told = regrun("--config-dir", str(tmp_path / "mine"), "method=odd", "data=digits")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert said in told.err
