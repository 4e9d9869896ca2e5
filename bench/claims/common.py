"""What the scripts of this folder share: runs that are trained once and kept, their evaluation, and tables.

A run is a configuration of configs/claims/DEVICE/ and some settings; it lives in RUNS/DEVICE/NAME. A finished run is kept, and used
by every script that asks for it; one whose configuration or settings have changed, or that did not finish, is trained again. Runs
of one GPU share it (--together); what is timed has it for itself: both by locks, so that scripts may run side by side."""
import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = {"books": "pg19", "images": "tiny-imagenet", "shakespeare": "tinyshakespeare.txt"}
CPU_BOOKS = 2  # validation books on a CPU: the shortest
EXCERPT = 16384  # bytes of one of them, where even that is too long
BOOKS = {"cuda": ["--max-documents", "0"], "cpu": ["--max-documents", "1"]}  # evaluated after training: all, or one
MARK = "claim.json"  # what a finished run was trained from


class Failed(Exception):
    """A run or evaluation that did not end well: one line for the table."""


class Run:
    """`settings` are the KEY=VALUE that differ from the configuration's."""

    def __init__(self, name, config, data, settings=()):
        self.name, self.config, self.data, self.settings = name, config, data, list(settings)


def parser(description):
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("build", help="folder with the program perceiver")
    result.add_argument("device", choices=["cuda", "cpu"])
    result.add_argument("--data", default=os.path.join(SOURCE, "data"), help="folder with pg19/, tiny-imagenet/, tinyshakespeare.txt")
    result.add_argument("--runs", default=os.path.join(SOURCE, "runs", "claims"))
    result.add_argument("--out", default=os.path.join(SOURCE, "docs", "benchmarks", "claims"))
    result.add_argument("--steps", type=int, default=0, help="training steps of each run (default: the configuration's)")
    result.add_argument("--minutes", type=float, default=0, help="a run of more minutes is stopped (default: none)")
    result.add_argument("--together", type=int, default=1, help="runs trained side by side")
    result.add_argument("--gpus", type=int, default=1, help="GPUs to spread the runs over")
    result.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    result.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every run")
    return result


class Session:
    def __init__(self, arguments):
        self.options, self.device = arguments, arguments.device
        self.program = os.path.join(os.path.abspath(arguments.build), "perceiver")
        self.runs = os.path.join(os.path.abspath(arguments.runs), self.device)
        os.makedirs(self.runs, exist_ok=True)
        os.makedirs(arguments.out, exist_ok=True)

    def folder(self, run):
        return os.path.join(self.runs, run.name)

    def config(self, run):
        return os.path.join(SOURCE, "configs", "claims", self.device, run.config + ".yaml")

    # Data

    def place(self, data):
        return os.path.join(os.path.abspath(self.options.data), DATA[data])

    def data_settings(self, data):
        """`data` is a name in DATA, or the pair of training and validation folders."""
        if isinstance(data, tuple):
            return [f"data.train={data[0]}", f"data.validation={data[1]}"]
        if data == "books":
            return [f"data.train={self.place(data)}/train", f"data.validation={yaml_list(self.validation_books())}"]
        if data == "images":
            return [f"data.train={self.place(data)}/train", f"data.validation={self.place(data)}/validation"]
        return [f"data.train={self.place(data)}"]

    def validation_books(self):
        folder = os.path.join(self.place("books"), "validation")
        books = sorted(os.path.join(folder, name) for name in os.listdir(folder))
        return sorted(books, key=os.path.getsize)[:CPU_BOOKS] if self.device == "cpu" else books

    def excerpt(self):
        """The first bytes of a validation book, a file."""
        path = os.path.join(self.runs, "excerpt.txt")
        with open(self.validation_books()[0], "rb") as book, open(f"{path}.{os.getpid()}", "wb") as file:
            file.write(book.read(EXCERPT))
        os.replace(file.name, path)  # another script may be reading it
        return path

    # The program

    def command(self, *words):
        threads = ["--threads", str(self.options.threads)] if self.options.threads else []
        return [self.program, *threads, *words]

    def call(self, words, gpu=0):
        """Runs the program, returns its output. Throws Failed."""
        environment = dict(os.environ)
        if self.options.gpus > 1:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
        done = subprocess.run(self.command(*words), capture_output=True, text=True, env=environment)
        if done.returncode == 0:
            return done.stdout
        if "out of memory" in done.stderr or done.returncode == -9:
            raise Failed("out of memory")
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failed(lines[-1].replace("perceiver: error: ", ""))

    @contextlib.contextmanager
    def lock(self, gpu=0, alone=False):
        """Holds a GPU (or the CPU), with others or alone."""
        with open(os.path.join(self.runs, f".lock-{gpu}"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield

    # Training

    def settings(self, run):
        steps = [f"train.steps={self.options.steps}"] if self.options.steps else []
        minutes = [f"train.max_minutes={self.options.minutes}"] if self.options.minutes else []
        return [f"device={self.device}", *self.data_settings(run.data), *run.settings, *steps, *minutes, *self.options.set]

    def as_words(self, run):
        return [word for setting in self.settings(run) for word in ("--set", setting)]

    def mark_of(self, run):
        with open(self.config(run)) as file:
            lines = [line.split("#")[0].rstrip() for line in file]  # a comment is no other configuration
        return {"config": [line for line in lines if line], "settings": self.settings(run)}

    def finished(self, run):
        return read_json(os.path.join(self.folder(run), MARK)) == self.mark_of(run)

    def train_one(self, run, gpu=0, alone=False):
        """Trains a run unless it is there. Throws Failed."""
        with open(self.folder(run) + ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another script may be at it
            if self.finished(run):
                return
            shutil.rmtree(self.folder(run), ignore_errors=True)
            with self.lock(gpu, alone):
                say(f"training {run.name}")
                self.call(["--quiet", "train", self.config(run), "--run", self.folder(run), *self.as_words(run)], gpu)
            if "validation_loss" not in self.metrics(run)[-1]:  # which ends every run that was not stopped
                raise Failed("was stopped")
            write_json(os.path.join(self.folder(run), MARK), self.mark_of(run))

    def train(self, runs, alone=False):
        """Trains the runs, some together; returns what went wrong with each: {name: line}."""
        todo, wrong = queue.Queue(), {}
        for run in runs:
            todo.put(run)

        def work(gpu):
            while True:
                try:
                    run = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    self.train_one(run, gpu, alone)
                except Failed as error:
                    wrong[run.name] = str(error)
                    say(f"{run.name}: {error}")

        workers = [threading.Thread(target=work, args=(i % self.options.gpus,)) for i in range(self.options.together)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return wrong

    # Results

    def kept(self, run, what, words, gpu=0, alone=False):
        """The JSON that the program prints for `words`, kept in the run's folder."""
        key = hashlib.sha256(json.dumps([words, self.mark_of(run)]).encode()).hexdigest()[:12]
        path = os.path.join(self.folder(run), f"{what}-{key}.json")
        result = read_json(path)
        if result is None:
            with self.lock(gpu, alone):
                say(f"{what} {run.name}")
                result = json.loads(self.call(words, gpu))
            os.makedirs(self.folder(run), exist_ok=True)
            write_json(path, result)
        return result

    def evaluate(self, run, *options, timed=False, batch=32):
        words = ["--quiet", "--device", self.device, "eval", self.folder(run), "--json", "--batch", str(batch), *options]
        return self.kept(run, "eval", words, alone=timed)

    def step_ms(self, run):
        """Median milliseconds of a training step, alone on the device."""
        steps = 20 if self.device == "cuda" else 8
        words = ["bench", "train", "--config", self.config(run), "--steps", str(steps), "--warmup", "3", *self.as_words(run)]
        return self.kept(run, "bench", words, alone=True)["step_ms"]["median"]

    def metrics(self, run):
        with open(os.path.join(self.folder(run), "metrics.jsonl")) as file:
            return [json.loads(line) for line in file]

    def state(self, run):
        """For a table: trained, or how far it came in the time it was given."""
        with open(os.path.join(self.folder(run), "config.yaml")) as file:
            planned = next(int(line.split()[1]) for line in file if line.startswith("  steps:"))
        step = self.metrics(run)[-1]["step"]
        return "trained" if step == planned else f"stopped at step {step} of {planned}"

    def minutes(self, run):
        return [entry["elapsed"] for entry in self.metrics(run) if "elapsed" in entry][-1] / 60

    def machine(self, run):
        """One line: where, from what and when a run was made."""
        try:
            with open(os.path.join(self.folder(run), "environment.jsonl")) as file:
                e = json.loads(file.readline())
        except OSError:
            return "not run"
        return ", ".join(str(e.get(key, "")) for key in ("device", "processor", "commit", "started"))

    def table(self, name, columns, rows):
        """Replaces the device's rows of OUT/NAME.tsv and prints them as markdown; returns all rows."""
        path = os.path.join(self.options.out, name + ".tsv")
        rows = [[self.device, *(as_text(value) for value in row)] for row in rows]
        update_table(path, ["device", *columns], rows, self.device)
        print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
        for row in rows:
            print("| " + " | ".join(row[1:]) + " |")
        sys.stdout.flush()


def update_table(path, columns, rows, device):
    others = []
    if os.path.exists(path):
        with open(path) as file:
            others = [line.rstrip("\n").split("\t") for line in file][1:]
    with open(path + ".new", "w") as file:
        for row in [columns, *(row for row in others if row[0] != device), *rows]:
            file.write("\t".join(row) + "\n")
    os.replace(path + ".new", path)


def as_text(value):
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) and abs(value) >= 100 else f"{value:.4f}" if isinstance(value, float) else str(value)


def yaml_list(words):
    return json.dumps(list(words))


def say(words):
    print(words, file=sys.stderr, flush=True)


def read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, json.JSONDecodeError):
        return None


def write_json(path, value):
    with open(path + ".new", "w") as file:
        json.dump(value, file, indent=1)
    os.replace(path + ".new", path)
