"""Which devices a deployment goes to, and what class each is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgefleet_contract.errors import UserInputError
from edgefleet_contract.labels import Requirement, Selector, parse_selector
from edgefleet_contract.manifest import ALL, BUILTIN_CLASSES, DeploymentSpec, Manifest, is_class_name
from edgefleet_controller.planner.facts import DeviceFacts
from edgefleet_controller.words import nearest

_SHOWN_DEVICES = 8

Path = tuple[str | int, ...]


class PlanError(UserInputError):
    """The manifest and the fleet do not fit together.

    Args:
        message: what was got and what is allowed.
        path: where in the manifest, as keys and indices.
        suggestion: what was probably meant.
    """

    def __init__(
        self, message: str, *, path: Path = (), suggestion: str | None = None, next_step: str | None = None
    ) -> None:
        hint = f"; did you mean {suggestion!r}?" if suggestion else ""
        super().__init__(f"{message}{hint}", next_step=next_step)
        self.path = path
        self.suggestion = suggestion


def class_selectors(manifest: Manifest) -> dict[str, Selector]:
    """Return every class's selector; the manifest's own before the built-in ones, so that they are looked up first."""
    own = {name: parse_selector(spec.select) for name, spec in manifest.classes.items()}
    return {**own, **{name: parse_selector(text) for name, text in BUILTIN_CLASSES.items()}}


def builtin_class(labels: Mapping[str, str]) -> str:
    """Return the built-in class of a device with these labels; every device has one."""
    return next(name for name, text in BUILTIN_CLASSES.items() if parse_selector(text).matches(labels))


def select_devices(
    index: int, deployment: DeploymentSpec, classes: Mapping[str, Selector], devices: Sequence[DeviceFacts]
) -> list[DeviceFacts]:
    """Return the devices deployment number `index` goes to, in the order given.

    A class without devices is no mistake (it may have some later), but a selector that matches nothing is, and so is
    a deployment that reaches nothing.

    Raises:
        PlanError: nothing is selected, or an unknown class is named.
    """
    path: Path = ("deployments", index, "to")
    reached: set[str] = set()
    for position, target in enumerate(deployment.to):
        names = {facts.name for facts in devices if _hits(target, facts, classes, (*path, position))}
        if not names and not is_class_name(target):
            raise _nothing_matches(target, devices, (*path, position))
        reached |= names
    if not reached:
        raise _nothing_reached(deployment, devices, path)
    return [facts for facts in devices if facts.name in reached]


def _hits(target: str, facts: DeviceFacts, classes: Mapping[str, Selector], path: Path) -> bool:
    if target == ALL:
        return True
    if not is_class_name(target):
        return parse_selector(target).matches(facts.selectable)
    if target not in classes:
        msg = f"unknown class {target!r}; known: {', '.join((ALL, *classes))}"
        raise PlanError(msg, path=path, suggestion=nearest(target, (ALL, *classes)))
    return classes[target].matches(facts.selectable)


def lookup_order(deployment: DeploymentSpec, classes: Mapping[str, Selector]) -> Iterator[str]:
    """Yield the classes by which a device's chain is looked up: those of `to` in order; `all` and selectors stand
    for every class."""
    for target in deployment.to:
        if target != ALL and is_class_name(target):
            yield target
        else:
            yield from classes


def _nothing_matches(target: str, devices: Sequence[DeviceFacts], path: Path) -> PlanError:
    return PlanError(
        f"no device matches {target!r}; {_known(devices)}",
        path=path,
        suggestion=_near_selector(parse_selector(target), devices),
        next_step="fleet devices",
    )


def _nothing_reached(deployment: DeploymentSpec, devices: Sequence[DeviceFacts], path: Path) -> PlanError:
    targets = ", ".join(deployment.to)
    return PlanError(f"no device is of {targets}; {_known(devices)}", path=path, next_step="fleet devices")


def _known(devices: Sequence[DeviceFacts]) -> str:
    shown = "; ".join(f"{facts.name} ({_listed(facts.selectable)})" for facts in devices[:_SHOWN_DEVICES])
    more = f" and {len(devices) - _SHOWN_DEVICES} more" if len(devices) > _SHOWN_DEVICES else ""
    return f"devices: {shown}{more}"


def _listed(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()) if key != "device")


def _near_selector(selector: Selector, devices: Sequence[DeviceFacts]) -> str | None:
    """Return the first condition no device meets, mended with the nearest key or value that devices have."""
    all_labels = [facts.selectable for facts in devices]
    for requirement in selector.requirements:
        if not any(requirement.matches(labels) for labels in all_labels):
            return _near_condition(requirement, all_labels)
    return None


def _near_condition(requirement: Requirement, all_labels: Sequence[Mapping[str, str]]) -> str | None:
    keys = {key for labels in all_labels for key in labels}
    if requirement.key not in keys:
        key = nearest(requirement.key, sorted(keys))
        return None if key is None else _written(key, requirement.values)
    values = sorted({labels[requirement.key] for labels in all_labels if requirement.key in labels})
    near = next((found for value in requirement.values if (found := nearest(value, values))), None)
    return None if near is None else _written(requirement.key, (near,))


def _written(key: str, values: Sequence[str]) -> str:
    if not values:
        return key
    return f"{key}={values[0]}" if len(values) == 1 else f"{key} in ({', '.join(values)})"
