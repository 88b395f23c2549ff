"""A registry with a fleet of real agents, for tests of the page."""

import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import time

SCRIPT = """#!/bin/sh
# The script fails for a version with the file "broken".
test ! -e "$NEWROOT/broken" || { echo 'migrate: relation "orders" does not exist'; exit 7; }
# The file "slow" beside the agent makes a deploy slower.
test ! -e ../slow || sleep 1
"""


def wait_until(what, check, seconds=30):
    """Waits until check() returns a true value, and returns that value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


class Stage:
    """A registry, its agents and their files in a temporary directory. `bin` is the directory of the
    programs."""

    def __init__(self, bin, hosts):
        self.bin = pathlib.Path(bin)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="deploy-page-"))
        self.processes = []
        for key in ("op", "srv"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "anna@laptop", "-f"]
            subprocess.run([*command, self.dir / key], check=True)
        self.start_registry()
        self.hosts = [f"web-{number:02}" for number in range(1, hosts + 1)]

    def start_registry(self):
        """Starts the registry, and reads its addresses from its log."""
        self.log = self.dir / "registry.log"
        flags = ["-addr", "127.0.0.1:0", "-dir", "reg", "-opauth", "op.pub", "-srvauth", "srv.pub"]
        flags += ["-http", "127.0.0.1:0", "-http-user-header", "X-Forwarded-User"]
        with open(self.log, "w") as log:
            self.registry = self.spawn("deploy-registry", flags, log)
        text = wait_until("the registry listens", lambda: self.listening())
        self.port = int(re.search(r"\d\d listening on \S*:(\d+)", text)[1])
        self.http = int(re.search(r"http: listening on \S*:(\d+)", text)[1])
        self.fingerprint = re.search(r"SHA256:\S+", text)[0]
        self.ssh_flags = ["-p", str(self.port), "-i", str(self.dir / "op"), "-l", "anna"]
        self.ssh_flags += ["-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=accept-new"]
        self.ssh_flags += ["-o", f"UserKnownHostsFile={self.dir / 'known'}", "-F", "none"]

    def listening(self):
        text = self.log.read_text()
        return text if "http: listening on" in text else None

    def spawn(self, program, arguments, log):
        process = subprocess.Popen(
            [self.bin / program, *arguments], cwd=self.dir, stderr=log, stdin=subprocess.DEVNULL
        )
        self.processes.append(process)
        return process

    def ssh(self, line, input=None):
        """Runs a command on the registry with stock ssh, and returns the output."""
        done = subprocess.run(
            ["ssh", *self.ssh_flags, "127.0.0.1", line], input=input, capture_output=True
        )
        assert done.returncode == 0, (line, done.returncode, done.stderr.decode())
        return done.stdout.decode()

    def forward(self, port):
        """Opens the page with `ssh -L`, as an operator without deployctl does. Returns the ssh
        process and the login address."""
        ssh = subprocess.Popen(
            ["ssh", *self.ssh_flags, "-L", f"{port}:web:80", "127.0.0.1", f"web -port {port}"],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
        )
        self.processes.append(ssh)
        return ssh, ssh.stdout.readline().decode().strip()

    def add_version(self, component, version, files):
        """Uploads an archive of `files` as a version of the component."""
        archive = self.dir / f"{component}-{version}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name, text in files.items():
                file = self.dir / "file"
                file.write_text(text)
                tar.add(file, name)
        self.ssh(f"put -name {component} -version {version}", archive.read_bytes())

    def start_agents(self, name):
        """Starts an agent for each host, and waits until all have deployed."""
        script = self.dir / "deploy.sh"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        for host in self.hosts:
            (self.dir / host).mkdir()
            flags = ["-addr", f"127.0.0.1:{self.port}", "-fp", self.fingerprint, "-key", "srv"]
            flags += ["-dir", host, "-state", f"{host}/state.json", "-name", name, "-host", host]
            flags += ["-poll", "1h", "-script", "./deploy.sh"]
            with open(self.dir / f"{host}.log", "w") as log:
                self.spawn("deploy-agent", flags, log)
        want = f"confirmed by {len(self.hosts)} of {len(self.hosts)}"
        wait_until(want, lambda: want in self.ssh(f"fleet -name {name}"))

    def fill(self):
        """Adds versions of three components and the configuration `shop`. Starts an agent for each
        host, and puts the hosts into groups."""
        for number in (1, 2):
            self.add_version("code", f"v{number}", {"version": f"{number}\n", "run": "#!/bin/sh\n"})
        self.add_version("code", "v3", {"version": "3\n", "broken": "yes\n"})
        self.add_version("assets", "2026-11-28", {"logo.svg": "<svg/>\n" * 2000})
        self.add_version("config", "c1", {"conf": "one\n"})
        layers = "-layer code:v1 -layer assets:2026-11-28 -layer config:c1"
        self.ssh(f"addconf -name shop {layers}")
        self.start_agents("shop")
        for host in self.hosts:
            group = "canary" if host in self.hosts[:2] else "production"
            self.ssh(f"host label {host} group={group}")

    def end(self):
        """Ends all programs. Removes the files unless the variable KEEP is set."""
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        if not os.environ.get("KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)
