from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_contract.accept import Scenario
from edgefleet_contract.errors import Location, ManifestError
from edgefleet_contract.manifest import Manifest
from edgefleet_controller.load import (
    LoadedManifest,
    ManifestProblemsError,
    check_supported,
    find_unsupported,
    load_manifest,
    parse_manifest,
)
from edgefleet_controller.load.document import MAX_FILE_BYTES
from edgefleet_controller.load.explain import UNIONS

SMALL = """\
fleet: v1
models:
  digits: {source: mnist_cnn_fp32.onnx, samples: mnist_test_1000.npz}
deployments:
  - {model: digits, to: "all"}
"""

EVERYTHING = """\
fleet: v1
models:
  lite0:
    source: models/efficientnet_lite0_fp32.onnx
    samples: {file: data/photos.npz, inputs: {input: images}, labels: y}   # real inputs; labels are optional
    preprocess: {input: {layout: nchw, scale: 0.0078125, mean: 127, std: 1}}   # part of the artifact
    calibration: data/calib.npz                                             # default: a seeded part of samples
    metric: {kind: top1, min_drop: 0.02}                                    # or module:function of the user's own
    dynamic: {input: {batch: [1, 1, 8]}}                                    # min, opt, max of each dynamic axis
classes:                                     # named device selectors; built-in: jetson, coral, phone, cpu
  kiosk: {select: "site=lobby, arch in (aarch64, x86_64), !canary"}
deployments:
  - model: lite0
    to: [jetson, coral, phone, kiosk]
    chain:                                   # default: built in, per class
      jetson: [tensorrt/gpu/int8, tensorrt/gpu/fp16, ort/cuda/fp16, ort/cpu/fp32]
      coral:  [tflite/edgetpu/int8, tflite/xnnpack/int8, ort/cpu/int8]
    choose: first                            # first | fastest | least-energy | smallest, among those that qualify
    accept:
      parity:  {min_agreement: 0.98}
      latency: {p95: 20 ms, scenario: single-stream}
      memory:  {peak: 200 MiB}
      energy:  {per_inference: 50 mJ, if_unmeasured: warn}   # warn | fail | ignore
      placement: {min_accelerated: 0.9, fallback: allow}     # allow | forbid
    rollout:
      waves: [1, 10%, 100%]
      bake: 10m
      gate: {max_failed: 5%, max_slower: 10%}
      on_failure: rollback                   # rollback | pause
"""


def parse(text: str) -> LoadedManifest:
    return parse_manifest(text, root=Path("/nowhere"), file="m.yaml")


def problem(text: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        parse(text)
    assert not isinstance(caught.value, ManifestProblemsError), str(caught.value)
    return caught.value


def with_model(line: str) -> str:
    return f"""\
fleet: v1
models:
  digits:
    source: digits.onnx
    samples: digits.npz
    {line}
deployments:
  - {{model: digits, to: all}}
"""


def with_deployment(line: str) -> str:
    return f"""\
fleet: v1
models:
  digits: {{source: digits.onnx, samples: digits.npz}}
classes:
  kiosk: {{select: "place=lobby"}}
deployments:
  - {{model: digits, {line}}}
"""


def test_the_small_manifest_of_the_documentation_is_valid() -> None:
    manifest = parse(SMALL).manifest
    assert manifest.models["digits"].samples.file == "mnist_test_1000.npz"
    assert manifest.deployments[0].to == ("all",)


def test_the_manifest_that_says_everything_is_valid() -> None:
    manifest = parse(EVERYTHING).manifest
    deployment = manifest.deployments[0]
    accept = deployment.accept.resolve(None)
    assert (accept.latency.p95_ms, accept.memory.peak_bytes, accept.energy.per_inference_mj) == (20, 200 * 1024**2, 50)
    assert deployment.rollout is not None
    assert (deployment.rollout.waves, deployment.rollout.bake) == ((1, 0.1, 1.0), 600.0)


def test_every_example_is_valid_and_supported(examples: Path) -> None:
    paths = sorted(examples.glob("*.yaml"))
    assert paths
    for path in paths:
        check_supported(load_manifest(path))


def test_a_loaded_manifest_knows_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(SMALL)
    loaded = load_manifest(path)
    assert (loaded.root, loaded.file) == (tmp_path, str(path))


@pytest.mark.parametrize(
    ("loc", "line", "text"),
    [
        ((), 1, "fleet"),
        (("models", "lite0"), 3, "lite0:"),
        (("models", "lite0", "source"), 4, "models/eff"),
        (("models", "lite0", "preprocess", "dict[str,InputTransform]", "input", "mean"), 6, "127"),
        (("deployments", 0, "to", 2), 14, "phone"),
        (("deployments", 0, "chain", "coral", 1), 17, "tflite/xnnpack/int8"),
        (("deployments", 0, "accept", "latency", "p95"), 21, "20 ms"),
        (("deployments", 0, "accept", "nothing", "here"), 19, "accept:"),
    ],
)
def test_every_value_keeps_its_line_and_column(loc: tuple[str | int, ...], line: int, text: str) -> None:
    at = parse(EVERYTHING).locate(loc)
    assert at.line == line
    assert EVERYTHING.splitlines()[line - 1][at.column - 1 :].startswith(text)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 1, "empty"),
        ("# only a comment\n", 2, 1, "empty"),
        ("fleet: v1\n---\nfleet: v1\n", 2, 1, "second document"),
        ("fleet: &a v1\n", 1, 8, "anchors"),
        ("a: &a [x]\nb: *a\n", 1, 4, "anchors"),
        ("fleet: *a\n", 1, 8, "aliases"),
        ("fleet: !!str v1\n", 1, 8, "tags"),
        ("fleet: !!python/object/apply:os.system [ls]\n", 1, 8, "tags"),
        ("<<: {fleet: v1}\n", 1, 1, "merge keys"),
        ("? [fleet]\n: v1\n", 1, 3, "plain text"),
        ("fleet: v1\nfleet: v1\n", 2, 1, "first at m.yaml:1:1"),
        ("fleet: v1\n\tmodels: {}\n", 2, 1, "indent with spaces"),
        ("fleet: 'v1\n", 2, 1, "not YAML"),
        ("fleet: v1: v2\n", 1, 10, "not YAML"),
        ("fleet: \x01\n", 1, 8, "a character YAML does not allow"),
        ('fleet: "\\UFFFFFFFF"\n', 1, 1, "not YAML"),
        ('fleet: "\\uD800"\n', 1, 8, "surrogate"),
        ("[" * 40 + "\n", 1, 33, "nested deeper than 32"),
        ("[" + "1," * 20_001 + "]", 1, 39_998 + 2, "more than 20000 values"),
        ("- fleet\n", 1, 1, "expected a mapping"),
        ("fleet", 1, 1, "expected a mapping"),
    ],
)
def test_what_is_not_yaml_as_we_take_it_is_refused_at_its_place(text: str, line: int, column: int, words: str) -> None:
    error = problem(text)
    assert words in str(error)
    assert error.location == Location("m.yaml", line, column)


@pytest.mark.parametrize(
    ("marked", "words", "suggestion"),
    [
        (with_model("§metrc: {kind: top1}"), "unknown key in models.digits; allowed: source", "metric"),
        (with_model("task: §Classification"), "allowed: classification, detection", "classification"),
        (with_model("metric: {kind: §top6}"), "allowed: top1, top5", "top5"),
        (with_model("metric: §top1"), "expected a mapping such as {kind: top1}, or module:function; got 'top1'", None),
        (with_model("metric: {kind: top1, min_drop: §2 pct}"), "unknown unit 'pct' for a share", None),
        (with_model("metric: {kind: top1, min_drop: §2}"), "between 0% and 100%", None),
        (with_model("preprocess: §7"), "expected a mapping of input names to transforms, or module:function", None),
        (with_model("preprocess: {image: {§layot: nchw}}"), "allowed: sample_layout, layout, scale", "layout"),
        (with_model("preprocess: {image: {layout: §nchv}}"), "allowed: nchw, nhwc, nhw", "nchw"),
        (with_model("preprocess: {image: {mean: §x}}"), "a number, or a list of one a channel", None),
        (with_model("preprocess: {image: {std: [1, §0]}}"), "std[1]: input should be greater than 0", None),
        (with_model("preprocess: {image: {mean: {a: 1}}}").replace("mean", "§mean"), "a number, or a list", None),
        (with_model("preprocess: {§image: {sample_layout: nhwc}}"), "say with `layout`", None),
        (with_model("calibration: §5"), "expected a mapping", None),
        (with_model('§calibration: ""'), "expected text, got nothing", None),
        (with_model("dynamic: {image: {§batch: [1, 8]}}"), "dynamic.image.batch", None),
        (with_model("dynamic: {image: {§batch: [4, 1, 8]}}"), "[smallest, usual, largest]", None),
        (with_deployment("§to: []"), "needs at least one entry", None),
        (with_deployment("to: §cpy"), "unknown class; known: all, jetson", "cpu"),
        (with_deployment("to: [cpu, §kiosc]"), "unknown class; known: all, jetson", "kiosk"),
        (with_deployment('to: §"place in (lobby"'), "neither a class nor a selector", None),
        (with_deployment("to: cpu, chain: §ort/cpu/int8"), "expected a list of variants", None),
        (with_deployment("to: cpu, §chain: []"), "needs at least one entry", None),
        (with_deployment("to: cpu, chain: [§ort/cpu/int9]"), "unknown precision 'int9'", "int8"),
        (with_deployment("to: cpu, chain: [§ort/gpu/int8]"), "unknown engine of ort 'gpu'; allowed: cpu", "cpu"),
        (with_deployment("to: cpu, chain: [§otr/cpu/int8]"), "unknown runtime 'otr'", "ort"),
        (with_deployment("to: cpu, chain: [§int8]"), "write runtime/engine/precision", None),
        (with_deployment("to: cpu, chain: {cpu: [§x]}"), "chain.cpu[0]: not a variant", None),
        (with_deployment("to: cpu, chain: {§cpi: [ort/cpu/int8]}"), "does not go to; it goes to: cpu", "cpu"),
        (with_deployment("to: cpu, choose: §fast"), "allowed: first, fastest", "fastest"),
        (with_deployment("to: cpu, accept: {latency: {p95: §20 msec}}"), "unknown unit 'msec'", "ms"),
        (with_deployment("to: cpu, accept: {latency: {p95: §20}}"), "write a number and a unit", None),
        (with_deployment("to: cpu, accept: {memory: {peak: §200 mib}}"), "unknown unit 'mib'", "MiB"),
        (with_deployment("to: cpu, accept: {latency: {p95: §0 ms}}"), "p95: input should be greater than 0", None),
        (with_deployment("to: cpu, accept: {memory: {peak: §0 B}}"), "peak: input should be greater than 0", None),
        (with_deployment("to: cpu, accept: {energy: {per_inference: §0 J}}"), "should be greater than 0", None),
        (with_deployment("to: cpu, accept: {§memery: {peak: 1 B}}"), "key in deployments[0].accept;", "memory"),
        (with_deployment("to: cpu, rollout: {waves: [§10x]}"), "a number of devices such as 1, or a share", None),
        (SMALL.replace("model: digits", "model: §digit"), "unknown model; declared: digits", "digits"),
        (SMALL.replace("model: digits", "model: §7"), "put it in quotes if text is meant", None),
        (SMALL.replace("fleet: v1", "fleet: §v2"), "allowed: v1", None),
        (SMALL.replace("fleet: v1\n", "§"), "the manifest needs the key 'fleet'", None),
        ("fleet: v1\n§models:\ndeployments: [{model: a, to: all}]", "models: expected a mapping", None),
        (
            SMALL.replace("digits: {", "§digits: {").replace(", samples: mnist_test_1000.npz", ""),
            "the key 'samples'",
            None,
        ),
        (SMALL.replace("  digits:", "  §Digits:"), "lower-case letters", None),
        (SMALL + "classes: {§cpu: {select: a}}\n", "built in; choose another name", None),
        (SMALL + "classes: {§all: {select: a}}\n", "built in; choose another name", None),
        (SMALL + 'classes: {kiosk: {select: §"a="}}\n', "not a condition: 'a='", None),
        (SMALL + "  - {model: digits, to: [cpu, §all]}\n", "to this twice, first at m.yaml:5:25", None),
        (SMALL.replace("source:", "§sorce:"), "unknown key in models.digits", "source"),
        (SMALL.replace("{model:", "{§modle:"), "unknown key in deployments[0]", "model"),
        (SMALL.replace("fleet:", "§flet:"), "unknown key; allowed: fleet", "fleet"),
        (with_model("preprocess: {x: {scale: §true}}"), "x.scale: expected a number", None),
        (with_model("preprocess: {x: {mean: §false}}"), "x.mean: expected a number, or a list", None),
        (with_model("preprocess: {x: {std: [1, §true]}}"), "x.std[1]: expected a number", None),
        (with_model("dynamic: {x: {batch: [§true, 1, 8]}}"), "batch[0]: expected a whole number", None),
        (with_model("metric: {min_drop: §true}"), "min_drop: not a share", None),
        (with_deployment("to: cpu, rollout: {waves: [§true]}"), "a number of devices such as 1, or a share", None),
    ],
)
def test_a_mistake_is_explained_once_at_its_place(marked: str, words: str, suggestion: str | None) -> None:
    before = marked[: marked.index("§")]
    error = problem(marked.replace("§", ""))
    assert words in str(error)
    assert error.suggestion == suggestion
    assert error.location == Location("m.yaml", before.count("\n") + 1, len(before) - before.rfind("\n"))


def test_no_field_of_the_language_takes_true_or_false_so_none_can_be_meant() -> None:
    assert '"boolean"' not in json.dumps(Manifest.model_json_schema())


def test_the_message_has_place_offending_text_and_suggestion() -> None:
    error = problem(with_deployment("to: cpu, choose: fast"))
    assert str(error) == (
        "m.yaml:7:38: deployments[0].choose: unknown value; allowed: first, fastest, least-energy, smallest; "
        "got 'fast'; did you mean 'fastest'?"
    )


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = SMALL.replace("fleet: v1", "fleet: v2").replace("all", "alll") + "more: 1\n"
    with pytest.raises(ManifestProblemsError) as caught:
        parse(text.replace('to: "alll"', "to: []"))
    places = [str(problem.location) for problem in caught.value.problems]
    assert places == ["m.yaml:1:8", "m.yaml:5:21", "m.yaml:6:1"]
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]


def test_after_twenty_mistakes_the_rest_is_counted() -> None:
    with pytest.raises(ManifestProblemsError) as caught:
        parse(SMALL + "".join(f"key{n}: 1\n" for n in range(25)))
    assert (len(caught.value.problems), caught.value.left_out_n) == (20, 5)
    assert str(caught.value).endswith("and 5 more")


def test_a_long_offending_text_is_shortened() -> None:
    error = problem(with_deployment(f"to: cpu, choose: {'x' * 500}"))
    assert error.offending is not None
    assert len(error.offending) == 60


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "10:30", "2026-01-01", "1_000", "0b1", "=", "y"])
def test_words_older_yaml_made_into_something_else_stay_text(word: str) -> None:
    assert parse(SMALL.replace("mnist_cnn_fp32.onnx", word)).manifest.models["digits"].source == word


@pytest.mark.parametrize(
    ("word", "value"),
    [("010", 10.0), ("1e3", 1000.0), (".5", 0.5), ("0x10", 16.0), ("0o17", 15.0), ("+7", 7.0), ("3.", 3.0)],
)
def test_numbers_are_read_by_the_core_schema(word: str, value: float) -> None:
    preprocess = parse(with_model(f"preprocess: {{image: {{mean: {word}}}}}")).manifest.models["digits"].preprocess
    assert not isinstance(preprocess, str)
    assert preprocess["image"].mean == value


@pytest.mark.parametrize("word", [".inf", "-.INF", ".nan", "9" * 5000, "1e999", "null"])
def test_what_is_no_finite_number_is_refused_as_one(word: str) -> None:
    assert "models.digits.preprocess.image.scale" in str(
        problem(with_model(f"preprocess: {{image: {{scale: {word}}}}}"))
    )


def test_keys_are_text_whatever_they_look_like() -> None:
    text = SMALL.replace("digits: {", "1: {").replace("model: digits", 'model: "1"')
    assert list(parse(text).manifest.models) == ["1"]


def test_a_file_too_large_is_refused_without_being_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    with path.open("wb") as stream:
        stream.truncate(50 * 1024**3)  # sparse: reading it whole would not fit in memory
    with pytest.raises(ManifestError, match=f"larger than {MAX_FILE_BYTES} bytes"):
        load_manifest(path)


@pytest.mark.parametrize(
    ("data", "place", "words"),
    [
        (b"\xef\xbb\xbffleet: v1\n", "1:1", "byte order mark"),
        ("fleet: v1\n".encode("utf-16"), "1:1", "byte order mark"),
        (b"fleet: v1\nmodels: \xff\n", "2:9", "byte 0xff"),
        (b"fleet: v1\nm\xc3\xb6dels: \xe9\n", "2:9", "byte 0xe9"),
        (b"fleet: v1\nmodels: \0\n", "2:9", "NUL"),
    ],
)
def test_what_is_not_plain_utf_8_is_refused_at_its_place(tmp_path: Path, data: bytes, place: str, words: str) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=words) as caught:
        load_manifest(path)
    assert str(caught.value.location) == f"{path}:{place}"


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot read .*absent\.yaml: No such file"):
        load_manifest(tmp_path / "absent.yaml")


def test_a_folder_or_a_pipe_is_not_a_manifest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ManifestError, match="not a regular file"):
            load_manifest(path)


def test_a_path_no_system_can_hold_is_a_manifest_error() -> None:
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(ManifestError):
            load_manifest(Path(name))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_a_manifest_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    with pytest.raises(ManifestError):
        load_manifest(path)


YAMLISH = st.text(st.sampled_from("abz01:-?&*!|>%@`'\"{}[],#\n \t\\~<=\u2028\x85é\U0001f600"), max_size=120)


@given(YAMLISH)
def test_any_text_is_a_manifest_or_a_manifest_error(text: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(text)
    assert str(caught.value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["source", "samples", "preprocess", "metric", "calibration", "dynamic", "task"]


@given(st.sampled_from(KEYS), PLAIN)
def test_any_value_under_any_key_is_fine_or_a_manifest_error_with_a_place(key: str, value: object) -> None:
    model = {"source": "digits.onnx", "samples": "digits.npz", key: value}
    text = json.dumps({"fleet": "v1", "models": {"digits": model}, "deployments": [{"model": "digits", "to": "all"}]})
    try:
        parse(text)  # a JSON text is a YAML text
    except ManifestError as error:
        where = error.location
    else:
        return
    assert where is not None


def test_a_manifest_is_the_same_after_a_round_trip_through_its_own_json() -> None:
    manifest = parse(EVERYTHING).manifest
    assert Manifest.model_validate_json(manifest.canonical_json()) == manifest
    assert parse(manifest.canonical_json().decode()).manifest == manifest


def test_rollouts_and_hooks_are_refused_with_their_place() -> None:
    text = EVERYTHING.replace("single-stream}", "server}").replace("preprocess: {", "preprocess: a.b:c #{")
    with pytest.raises(ManifestProblemsError) as caught:
        check_supported(parse(text))
    told = [(str(problem.location), problem.message.split()[0]) for problem in caught.value.problems]
    assert told == [("m.yaml:6:17", "preprocess"), ("m.yaml:25:5", "rollouts")]


def test_a_hook_for_preprocessing_is_refused_too() -> None:
    with pytest.raises(ManifestError, match=r"preprocess by module:function is not in this version; got 'a\.b:c'"):
        check_supported(parse(with_model("preprocess: a.b:c")))


def test_what_is_supported_passes_and_an_energy_limit_is_supported() -> None:
    energy = "to: cpu, accept: {energy: {per_inference: 50 mJ}}"
    assert list(find_unsupported(parse(with_deployment(energy)).manifest)) == []
    check_supported(parse(SMALL))


@pytest.mark.parametrize("scenario", Scenario)
def test_every_scenario_is_supported_and_carried_with_its_load(scenario: Scenario) -> None:
    limits = f"{{p99: 50 ms, scenario: {scenario.value}, rate: 20 Hz, load: 30%, samples_per_query: 4}}"
    loaded = parse(with_deployment(f"to: cpu, accept: {{latency: {limits}}}"))
    check_supported(loaded)
    found = loaded.manifest.deployments[0].accept.resolve(None).latency
    assert (found.p99_ms, found.scenario, found.rate_hz, found.load_share) == (50.0, scenario, 20.0, 0.3)
    assert found.samples_per_query == 4


def test_every_key_whose_value_has_several_forms_has_words_for_them() -> None:
    schema = Manifest.model_json_schema()
    several = {
        key
        for record in schema["$defs"].values()
        for key, value in record.get("properties", {}).items()
        if len(forms_of(value)) > 1
    }
    # `samples`, `calibration` and `to` are made into their long form before they are checked; shares are one form.
    assert several - {"samples", "calibration", "to"} == set(UNIONS)


def forms_of(value: dict[str, Any]) -> set[str]:
    forms = [*value.get("anyOf", ()), *value.get("items", {}).get("anyOf", ())]
    kinds = {form.get("type", "object") for form in forms} - {"null"}
    return set() if kinds == {"number", "string"} else kinds
