"""The coordinator's folder of a study: every file of it by name, and the settings that are the coordinator's own."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from wbc_common.errors import SettingError
from wbc_common.study import Settings, StudyConfig, read_study, read_toml, validated
from wbc_server.run_folder import RunFolder


class GatewaySettings(Settings):
    """`server.toml`: the one door that clinics reach.

    Attributes:
        hosts: names and addresses in the server's certificate; clinics connect to one of them.
        bind: address to listen on.
        port: port to listen on.
        max_body_megabytes: a larger request is refused; Flower sends models in pieces of 5 MB.
        requests_per_second: of one clinic, on average; more get 503, on which a node waits and repeats.
        connections_per_address: that one address, or one IPv6 /64, may have open. To be raised where all clinics come
            through one address that is not this machine's, such as a relay or a container runtime that hides theirs.
        warn_days: days before a certificate's end from which every start warns.
    """

    hosts: tuple[str, ...] = Field(min_length=1)
    bind: str = "0.0.0.0"
    port: int = Field(8443, ge=1, le=65535)
    max_body_megabytes: float = Field(16.0, gt=0, le=2048)
    requests_per_second: float = Field(200.0, gt=0, le=100_000)
    connections_per_address: int = Field(64, ge=1, le=100_000)
    warn_days: int = Field(30, ge=0, le=3650)


@dataclass(frozen=True)
class StudyFolder:
    """Paths of a coordinator's study."""

    path: Path

    @property
    def study_file(self) -> Path:
        """The plan."""
        return self.path / "study.toml"

    @property
    def settings_file(self) -> Path:
        """The gateway's settings."""
        return self.path / "server.toml"

    @property
    def register_file(self) -> Path:
        """Who is enrolled."""
        return self.path / "clinics.json"

    @property
    def authority(self) -> Path:
        """Certificate that clinics trust."""
        return self.path / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The gateway's certificate."""
        return self.path / "server.pem"

    @property
    def private(self) -> Path:
        """Keys and secrets; only the coordinator's user enters."""
        return self.path / "private"

    @property
    def authority_key(self) -> Path:
        """Signs certificates; needed by `init` and `renew` alone."""
        return self.private / "ca.key"

    @property
    def certificate_key(self) -> Path:
        """The gateway's key."""
        return self.private / "server.key"

    @property
    def link_certificate(self) -> Path:
        """The SuperLink's certificate, for loopback alone."""
        return self.private / "link.pem"

    @property
    def link_key(self) -> Path:
        """The SuperLink's key."""
        return self.private / "link.key"

    @property
    def superexec_secret(self) -> Path:
        """Shared by SuperLink and SuperExec."""
        return self.private / "superexec.secret"

    @property
    def link(self) -> Path:
        """State of Flower's processes and their logs."""
        return self.path / "link"

    @property
    def state_file(self) -> Path:
        """What runs now."""
        return self.link / "state.json"

    @property
    def lock_file(self) -> Path:
        """Held by the `start` that runs."""
        return self.link / "lock"

    @property
    def run(self) -> RunFolder:
        """The study's run."""
        return RunFolder(self.path / "run")

    def study(self) -> StudyConfig:
        """The plan.

        Raises:
            SettingError: it is missing or wrong.
        """
        return read_study(self.study_file)

    def settings(self) -> GatewaySettings:
        """The gateway's settings.

        Raises:
            SettingError: they are missing or wrong, or this is no study's folder.
        """
        if not self.settings_file.exists():
            raise SettingError(
                f"{self.path} is no coordinator's folder", remedy=f"make one: wbc-server init {self.path}"
            )
        return validated(GatewaySettings, read_toml(self.settings_file), self.settings_file.name)
