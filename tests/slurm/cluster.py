"""A real Slurm cluster on this machine: a controller and nodes in namespaces of their own.

Needs root and the packages slurmctld, slurmd, slurm-client, munge, slurm-wlm-basic-plugins.
"""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "unshare", "nsenter", "ip")

_CONTROLLER_ADDRESS = "10.77.0.254"
_CONFIG = """
ClusterName=scomoe
SlurmctldHost=ctl({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/run/munge.sock,cred_expire=5
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd-%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=5,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=3
MinJobAge=3600
UnkillableStepTimeout=20
JobRequeue=1
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_LIFE = """
hostname {name}
mount -t sysfs sysfs /sys
mount --bind {base}/hosts /etc/hosts
mount --bind {base}/nsswitch /etc/nsswitch.conf
ip link set lo up
touch {base}/run/{name}.ready
while :; do sleep 3600 & wait $!; done
"""


def why_not() -> str | None:
    """What is missing for a cluster here; None if nothing is."""
    if os.geteuid():
        return "a Slurm cluster of namespaces needs root"
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"{', '.join(missing)} missing; make test-slurm installs what is needed"
    return None


class SlurmCluster:
    """Nodes n1, n2, … with two processors each."""

    def __init__(self, base: Path, *, num_nodes: int = 2):
        self.base = base
        self.nodes = [f"n{index + 1}" for index in range(num_nodes)]
        self._lives: dict[str, subprocess.Popen] = {}
        self._munged: subprocess.Popen | None = None

    def __enter__(self) -> "SlurmCluster":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        if "ctl" in self._lives:
            self.run(["scontrol", "shutdown"], check=False)
        if self._munged is not None:
            self._munged.terminate()
        for life in self._lives.values():
            life.kill()  # and with it everything in its namespaces
            life.wait()

    # --- using it

    def run(self, command: Sequence[str], *, check: bool = True, timeout: float = 60):
        """Run a command on the controller; its finished process."""
        done = subprocess.run(
            self._inside("ctl", command),
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}: {done.stderr}")
        return done

    def submit(self, *arguments: str | Path) -> str:
        """The id of a new batch job."""
        done = self.run(["sbatch", "--parsable", *map(str, arguments)])
        return done.stdout.strip().split(";")[0]

    def state(self, job: str) -> dict[str, str]:
        """What scontrol shows of a job."""
        shown = self.run(["scontrol", "-o", "show", "job", job]).stdout
        return dict(field.partition("=")[::2] for field in shown.split() if "=" in field)

    def wait_for(self, job: str, states: Sequence[str], *, seconds: float) -> dict[str, str]:
        """Wait until a job is in one of the states; what scontrol shows then."""
        deadline = time.monotonic() + seconds
        while True:
            shown = self.state(job)
            if shown["JobState"] in states:
                return shown
            assert time.monotonic() < deadline, f"job {job} is {shown['JobState']}"
            time.sleep(0.5)

    def kill_node(self, name: str) -> None:
        """End everything on a node at once, as if its power were gone."""
        life = self._lives.pop(name)
        life.kill()
        life.wait()

    def start_node(self, name: str) -> None:
        """Start a node, again after `kill_node`."""
        self._start_namespaces(name)
        self._connect(name, self.nodes.index(name) + 1)
        self._daemon(name, ["slurmd", "-c", "-N", name])

    # --- starting it

    def _start(self) -> None:
        for folder in ("run", "state", "spool", "log"):
            (self.base / folder).mkdir(parents=True)
        self._write_files()
        self._start_munged()
        self._start_namespaces("ctl")
        for command in (
            "ip link add br0 type bridge",
            f"ip addr add {_CONTROLLER_ADDRESS}/24 dev br0",
            "ip link set br0 up",
        ):
            self.run(command.split())
        self._daemon("ctl", ["slurmctld", "-c"])
        for name in self.nodes:
            self.start_node(name)
        deadline = time.monotonic() + 60
        count = str(len(self.nodes))
        while self.run(["sinfo", "-h", "-t", "idle", "-o", "%D"]).stdout.strip() != count:
            assert time.monotonic() < deadline, "the nodes do not come up"
            time.sleep(0.3)

    def _write_files(self) -> None:
        base = self.base
        hosts = [f"{_CONTROLLER_ADDRESS} ctl"]
        hosts += [f"10.77.0.{index + 1} {name}" for index, name in enumerate(self.nodes)]
        (base / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts]) + "\n")
        (base / "nsswitch").write_text("hosts: files\n")
        nodes = "\n".join(
            f"NodeName={name} NodeAddr=10.77.0.{index + 1} CPUs=2 RealMemory=2000 State=UNKNOWN"
            for index, name in enumerate(self.nodes)
        )
        config = _CONFIG.format(address=_CONTROLLER_ADDRESS, base=base, nodes=nodes)
        (base / "slurm.conf").write_text(config)
        (base / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def _start_munged(self) -> None:
        private = self.base / "munge"
        private.mkdir(mode=0o700)
        key = private / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        self.base.chmod(0o755)
        self._munged = subprocess.Popen(
            [
                *("munged", "--foreground", "--force", "--key-file", key),
                *("--socket", self.base / "run" / "munge.sock"),
                *("--pid-file", private / "pid", "--log-file", private / "log"),
                *("--seed-file", private / "seed"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _start_namespaces(self, name: str) -> None:
        ready = self.base / "run" / f"{name}.ready"
        ready.unlink(missing_ok=True)
        flags = "--net --uts --mount --pid --fork --kill-child --mount-proc --propagation private"
        script = _LIFE.format(name=name, base=self.base)
        self._lives[name] = subprocess.Popen(
            ["unshare", *flags.split(), "--", "bash", "-ec", script],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not ready.exists():
            assert self._lives[name].poll() is None, f"no namespaces for {name} here"
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _connect(self, name: str, number: int) -> None:
        pid = self._pid(name)
        self.run(["ip", "link", "del", f"p{number}"], check=False)
        link = f"ip link add p{number} type veth peer name e{number}"
        self.run(link.split())
        # From the controller's network to the node's, by way of ours: each knows its own pids.
        ctl = str(self._pid("ctl"))
        subprocess.run(
            ["nsenter", "-t", ctl, "-n", "ip", "link", "set", f"e{number}", "netns", str(pid)],
            check=True,
        )
        self.run(f"ip link set p{number} master br0 up".split())
        for command in (
            f"ip link set e{number} name eth0",
            f"ip addr add 10.77.0.{number}/24 dev eth0",
            "ip link set eth0 up",
        ):
            subprocess.run(self._inside(name, command.split()), check=True)

    def _daemon(self, name: str, command: Sequence[str]) -> None:
        subprocess.run(self._inside(name, command), env=self._environment(), check=True)

    def _pid(self, name: str) -> int:
        parent = self._lives[name].pid
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])

    def _inside(self, name: str, command: Sequence[str]) -> list[str]:
        enter = ["nsenter", "-t", str(self._pid(name)), "-n", "-u", "-m", "-p", f"--wd={ROOT}"]
        return [*enter, "--", *map(str, command)]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.base / "slurm.conf")}
