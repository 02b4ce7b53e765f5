"""``create_<sku>_mapper`` for every profile: made from the catalogue when a module is asked for one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from graphs.errors import nearest
from graphs.hardware.calibration.calibration import HardwareCalibration
from graphs.hardware.catalogue import CatalogueEntry, catalogue
from graphs.hardware.mappers.base import HardwareMapper
from graphs.hardware.profile import load_profile

M = TypeVar("M", bound=HardwareMapper)
M_co = TypeVar("M_co", bound=HardwareMapper, covariant=True)


class MapperFactory(Protocol[M_co]):
    """Makes the mapper of one SKU."""

    __name__: str

    def __call__(self, thermal_profile: str | None = None, calibration: HardwareCalibration | None = None) -> M_co:
        """Return the mapper, uncalibrated unless `calibration` is given."""


class Factories(Generic[M]):
    """The factories of one module.

    Parameters
    ----------
    module : str
        Name of the module that offers them.
    mapper : type
        Class of the mappers.
    family : str
        Profiles of this family have a factory here.
    others : dict of str to str, optional
        Further factory names, and the hardware they make.
    """

    def __init__(self, module: str, mapper: type[M], family: str, others: dict[str, str] | None = None) -> None:
        self._module, self._mapper, self._family, self._others = module, mapper, family, others or {}
        self._made: dict[str, MapperFactory[M]] = {}

    def names(self) -> dict[str, str]:
        """Return the hardware id by factory name, of ids and of aliases that are names of a machine too."""
        found: dict[str, str] = {}
        for entry in catalogue().values():
            if entry.family == self._family:
                found |= dict.fromkeys(factory_names(entry), entry.id)
        return found | self._others

    def __getitem__(self, name: str) -> MapperFactory[M]:
        """Return the factory of this name.

        Raises
        ------
        AttributeError
            With the nearest names.
        """
        if name in self._made:
            return self._made[name]
        known = self.names() if name.startswith("create_") else {}
        if name not in known:
            hint = f"; did you mean {nearest(name, known)}?" if known else ""
            raise AttributeError(f"module {self._module!r} has no attribute {name!r}{hint}")
        made = self._made[name] = self._make(name, known[name])
        return made

    def _make(self, name: str, hardware: str) -> MapperFactory[M]:
        entry, mapper = catalogue()[hardware], self._mapper

        def create(thermal_profile: str | None = None, calibration: HardwareCalibration | None = None) -> M:
            return mapper(load_profile(hardware), thermal_profile, calibration)

        return _named(create, name, self._module, entry)


def factory_names(entry: CatalogueEntry) -> list[str]:
    """Return the names under which a profile has a factory, that of its id first.

    Aliases of the form of an id count too; the names that drivers report do not.
    """
    names = [entry.id, *(a for a in entry.aliases if re.fullmatch(r"[A-Za-z0-9_.-]+", a))]
    return list(dict.fromkeys(f"create_{_slug(n)}_mapper" for n in names))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _named(create: Callable[..., M], name: str, module: str, entry: CatalogueEntry) -> MapperFactory[M]:
    create.__name__ = create.__qualname__ = name
    create.__module__ = module
    create.__doc__ = f"""Return the mapper of {entry.name} ('{entry.id}'), at the 20 % default until calibrated.

    Parameters
    ----------
    thermal_profile : str, optional
    calibration : HardwareCalibration, optional
        ``load_calibration("{entry.id}")`` where something was measured; may be set later as `calibration`.

    Raises
    ------
    ProfileError, ModelFileError
    """
    return create
