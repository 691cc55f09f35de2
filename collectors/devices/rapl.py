"""What the CPU's packages use, from Intel's and AMD's RAPL counters in Linux' powercap folder."""

from pathlib import Path

from collectors.devices.samples import DeviceSample, Gap, Reading

POWERCAP = Path("/sys/class/powercap")
_UJ_PER_JOULE = 1_000_000


class CpuPackages:
    """The energy of each CPU package. A counter's wrap-around is made up for, if it is read often enough:
    the narrowest ones go around in about twenty minutes at 200 W.
    """

    def __init__(self, host: str, powercap: Path = POWERCAP) -> None:
        self._host = host
        self._powercap = powercap
        self._raw_uj: dict[Path, int] = {}
        self._wrapped_uj: dict[Path, int] = {}

    def sample(self) -> Reading:
        samples: list[DeviceSample] = []
        gaps: list[Gap] = []
        for zone in sorted(self._powercap.glob("intel-rapl:*")):
            device_id = self._package(zone)
            if device_id is None:
                continue
            try:
                samples.append(self._sample(device_id, self._energy_uj(zone)))
            except OSError as error:
                gaps.append(_denied(device_id, zone, error))
        if not samples and not gaps:
            gaps.append(_none(self._host, self._powercap))
        return Reading(tuple(samples), tuple(gaps))

    def _package(self, zone: Path) -> str | None:
        """Its id; None for a part of a package, which is in it, and for what is not the CPU (psys)."""
        try:
            name = (zone / "name").read_text().strip()
        except OSError:
            return None
        return f"{self._host}/{name}" if name.startswith("package-") else None

    def _sample(self, device_id: str, energy_uj: int) -> DeviceSample:
        return DeviceSample(
            device_id=device_id,
            device_type="cpu",
            parent_id=self._host,
            energy_joules=energy_uj / _UJ_PER_JOULE,
        )

    def _energy_uj(self, zone: Path) -> int:
        """Cumulative since before we came. Raises OSError where it is denied."""
        raw_uj = int((zone / "energy_uj").read_text())
        if raw_uj < self._raw_uj.get(zone, 0):
            range_uj = int((zone / "max_energy_range_uj").read_text())
            self._wrapped_uj[zone] = self._wrapped_uj.get(zone, 0) + range_uj
        self._raw_uj[zone] = raw_uj
        return raw_uj + self._wrapped_uj.get(zone, 0)


def _denied(device_id: str, zone: Path, error: OSError) -> Gap:
    return Gap(
        device_id=device_id,
        device_type="cpu",
        counter="energy",
        reason="no_permission" if isinstance(error, PermissionError) else "unreadable",
        because=f"{zone}/energy_uj: {error.strerror}; most kernels let root alone read it",
    )


def _none(host: str, powercap: Path) -> Gap:
    return Gap(
        device_id=host,
        device_type="cpu",
        counter="energy",
        reason="not_supported",
        because=f"no CPU package in {powercap}; virtual machines have none,"
        " and in a container the folder may be hidden",
    )
