"""What `perceiver serve` makes of the engine's speed: tokens a second and seconds to the first token.

    serve_load.py BUILD [cpu|cuda [KEY=VALUE...]]  the whole table, for configs/quickstart.yaml with these keys (cuda: MODEL below), beside `perceiver bench decode` alone, in turns; some minutes
    serve_load.py ADDRESS MODEL [CLIENTS...]       of a server that runs

Each client asks for TOKENS tokens again and again, streaming. One thread plays all of them, so that it takes little from the server."""
import http.client
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from urllib.parse import urlparse

SECONDS, TOKENS, ROUNDS = 6, 200, 3
PROMPT = "And"
SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The engine's step without a server: the same model and prompt; more tokens, so that the first ones count as little as in a server that runs.
ALONE = ["bench", "decode", "--context", str(len(PROMPT) + 1), "--tokens", "480", "--policy", "refill"]
MODEL = {"cpu": [], "cuda": ["model.input_channels=1024", "model.layers=12", "model.cross_heads=16", "model.self_heads=16",
                              "model.context_length=8192", "model.latents=1024", "train.batch=1"]}


class Client:
    def __init__(self, address, model):
        body = json.dumps({"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "ignore_eos": True, "stream": True})
        self.request = (f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
                        f"Content-Length: {len(body)}\r\n\r\n{body}").encode()
        self.socket = socket.create_connection((address.hostname, address.port))
        self.firsts, self.done = [], 0
        self.ask()

    def ask(self):
        self.began, self.waiting, self.end = time.perf_counter(), True, b""
        self.socket.sendall(self.request)

    def read(self):
        """What has come; True once the answer is whole."""
        piece = self.socket.recv(1 << 16)
        assert piece and not (self.waiting and piece.startswith(b"HTTP/1.1 4")), f"no stream: {piece}"
        if self.waiting and b"\ndata: {" in self.end + piece:
            self.waiting = False
            self.firsts.append(time.perf_counter() - self.began)
        self.end = (self.end + piece)[-20:]
        return self.end.endswith(b"\r\n0\r\n\r\n")


def tokens_made(address, model):
    connection = http.client.HTTPConnection(address.hostname, address.port)
    connection.request("GET", "/metrics")
    for line in connection.getresponse().read().decode().splitlines():
        if line.startswith(f'perceiver_generated_tokens_total{{model="{model}"}}'):
            return float(line.split()[-1])
    return 0


def load(address, model, count):
    """Tokens and requests a second, and seconds to the first token, of that many clients."""
    selector = selectors.DefaultSelector()
    clients = [Client(address, model) for _ in range(count)]
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
    begin, before = time.perf_counter() + 0.5, None  # the first half second warms up
    while time.perf_counter() < begin + SECONDS:
        if before is None and time.perf_counter() >= begin:
            begin, before = time.perf_counter(), tokens_made(address, model)
            for client in clients:
                client.done = 0
        for key, _ in selector.select(0.1):
            if key.data.read():
                key.data.done += 1
                key.data.ask()
    made, seconds = tokens_made(address, model) - before, time.perf_counter() - begin
    for client in clients:
        client.socket.close()
    firsts = sorted(first for client in clients for first in client.firsts)
    return {"tokens": made / seconds, "requests": sum(client.done for client in clients) / seconds, "first": statistics.median(firsts),
            "p95": firsts[int(0.95 * (len(firsts) - 1))]}


class Server:
    def __init__(self, program, device, model, slots):
        self.process = subprocess.Popen([program, "--quiet", "--device", device, "serve", model, "--slots", str(slots), "--port", "0"], stdout=subprocess.PIPE, text=True)
        self.address = urlparse(self.process.stdout.readline().strip())

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(20) == 0


def served(program, device, model, clients, slots):
    server = Server(program, device, model, slots)
    try:
        return load(server.address, "small", clients)
    finally:
        server.stop()


def alone(program, device, model, batch):
    out = subprocess.run([program, "--device", device, *ALONE, "--checkpoint", model, "--batch", str(batch)], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)["runs"][0]["tokens_per_second"]


def make_model(program, device, folder, keys):
    text = os.path.join(folder, "text.txt")
    with open(text, "w") as file:
        for name in ("README.md", "CONTRIBUTING.md"):
            file.write(open(os.path.join(SOURCE, name)).read())
    sets = [each for key in ["train.steps=1", f"data.train={text}", "eval.max_documents=1", *MODEL[device], *keys] for each in ("--set", key)]
    run = os.path.join(folder, "small")
    subprocess.run([program, "--quiet", "--device", device, "train", os.path.join(SOURCE, "configs/quickstart.yaml"), *sets, "--run", run], check=True, stdout=subprocess.DEVNULL)
    return run


def median_of(results, key=None):
    return statistics.median(each[key] if key else each for each in results)


def whole_table(build, device, keys):
    program = os.path.join(os.path.abspath(build), "perceiver")
    print(f"{SECONDS} s each, {ROUNDS} turns, medians; {device}; {time.strftime('%Y-%m-%d')};", *MODEL[device], *keys)
    subprocess.run([program, "--version"])
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(program, device, folder, keys)
        rows = [(1, 1), (8, 8), (64, 64), (1, 8), (1, 64)]
        here, engine = {row: [] for row in rows}, {row[0]: [] for row in rows}
        for turn in range(ROUNDS):
            for clients, slots in rows if turn == 0 else rows[:3]:
                if clients == slots:
                    engine[clients].append(alone(program, device, model, clients))
                here[clients, slots].append(served(program, device, model, clients, slots))
    print("\n| clients | slots | tokens/s served | of the engine alone | share | requests/s | first token, median | p95 |\n|---|---|---|---|---|---|---|---|")
    for clients, slots in rows:
        results, bound = here[clients, slots], median_of(engine[clients])
        tokens = median_of(results, "tokens")
        print(f"| {clients} | {slots} | {tokens:.0f} | {bound:.0f} | {tokens / bound:.2f} | {median_of(results, 'requests'):.1f} "
              f"| {median_of(results, 'first') * 1000:.1f} ms | {median_of(results, 'p95') * 1000:.1f} ms |", flush=True)


def one_server(address, model, counts):
    print(f"{'clients':>8} {'tokens/s':>9} {'requests/s':>11} {'first token, median':>20} {'p95':>10}")
    for count in counts:
        result = load(address, model, count)
        print(f"{count:8} {result['tokens']:9.0f} {result['requests']:11.1f} {result['first'] * 1000:17.1f} ms {result['p95'] * 1000:7.1f} ms")


if sys.argv[1].startswith("http"):
    one_server(urlparse(sys.argv[1]), sys.argv[2], [int(text) for text in sys.argv[3:]] or [1, 8, 64])
else:
    whole_table(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "cpu", sys.argv[3:])
