"""Tokens per second and seconds to the first token of a running `perceiver serve`: serve_load.py ADDRESS MODEL [CLIENTS...]

Each client asks for 200 tokens again and again for ten seconds, streaming; whatever ends within them counts."""
import http.client
import json
import statistics
import sys
import threading
import time
from urllib.parse import urlparse

address, model = urlparse(sys.argv[1]), sys.argv[2]
SECONDS, TOKENS = 10, 200


def client(end, results):
    connection = http.client.HTTPConnection(address.hostname, address.port)
    while time.time() < end:
        body = {"model": model, "prompt": "And", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
        began = time.time()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        first = None
        for line in answer:
            if first is None and line.startswith(b"data"):
                first = time.time() - began
        if answer.status == 200:
            results.append((first, time.time()))


def tokens_made():
    connection = http.client.HTTPConnection(address.hostname, address.port)
    connection.request("GET", "/metrics")
    for line in connection.getresponse().read().decode().splitlines():
        if line.startswith(f'perceiver_generated_tokens_total{{model="{model}"}}'):
            return float(line.split()[-1])
    return 0


print(f"{'clients':>8} {'tokens/s':>9} {'requests/s':>11} {'first token, median':>20} {'p95':>7}")
for count in [int(text) for text in sys.argv[3:]] or [1, 8, 64]:
    results, begin, before = [], time.time(), tokens_made()
    threads = [threading.Thread(target=client, args=(begin + SECONDS, results)) for _ in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    made, seconds = tokens_made() - before, time.time() - begin
    for thread in threads:
        thread.join()
    firsts = sorted(first for first, _ in results)
    p95 = firsts[int(0.95 * (len(firsts) - 1))]
    done = sum(1 for _, at in results if at - begin <= seconds)
    print(f"{count:8} {made / seconds:9.0f} {done / seconds:11.1f} {statistics.median(firsts) * 1000:17.0f} ms {p95 * 1000:4.0f} ms")
