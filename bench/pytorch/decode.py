"""Times generation in PyTorch, one token at a time; prints a line of JSON for each configuration.

    python3 bench/pytorch/decode.py NAME... [--batch N]

The gpt-fast recipe: static KV caches, torch.compile with CUDA graphs, bf16 weights. `fraction` is the share of the
memory bound that is reached: bytes of weights and caches read per token over the bandwidth of a copy.
"""
import argparse
import json
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import CONFIGS

COPY_BANDWIDTH = 3.0e12  # bytes per second of a copy on an H100
DEVICE = "cuda"
DTYPE = torch.bfloat16
torch._inductor.config.coordinate_descent_tuning = True
torch._inductor.config.triton.unique_kernel_names = True


def rotate(x, cos, sin):
    """Rotates interleaved pairs of the first 2 * cos.numel() channels of x [B, heads, 1, head width]."""
    k = 2 * cos.numel()
    rotated, passed = x[..., :k], x[..., k:]
    a, b = rotated[..., ::2], rotated[..., 1::2]
    return torch.cat((torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2), passed), -1)


class Block(nn.Module):
    """Attention over a full cache of `slots` keys and values, one of which is written, and an MLP."""

    def __init__(self, d, heads, slots, batch):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        shape = (batch, heads, slots, d // heads)
        self.register_buffer("k", torch.randn(shape, dtype=DTYPE, device=DEVICE))
        self.register_buffer("v", torch.randn(shape, dtype=DTYPE, device=DEVICE))
        self.register_buffer("index", torch.arange(slots, device=DEVICE))

    def forward(self, z, slot, cos, sin, sdpa):
        B, D = z.shape
        q, k, v = self.qkv(self.norm1(z)).view(B, 3, self.heads, 1, D // self.heads).unbind(1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        self.k.index_copy_(2, slot, k)
        self.v.index_copy_(2, slot, v)
        mask = (self.index <= slot)[None, None, None]
        if sdpa:
            y = F.scaled_dot_product_attention(q, self.k, self.v, attn_mask=mask)
        else:
            scores = (q @ self.k.transpose(-1, -2)) * (q.shape[-1] ** -0.5)
            y = torch.softmax(scores.float().masked_fill(~mask, float("-inf")), -1).to(DTYPE) @ self.v
        z = z + self.out(y.reshape(B, D))
        return z + self.down(F.relu(self.up(self.norm2(z))).square())


class Decoder(nn.Module):
    def __init__(self, c, batch):
        super().__init__()
        d, heads = c["d"], c["h"]
        self.embedding, self.project = nn.Embedding(c["vocab"], d), nn.Linear(d, d)
        slots = [c["ctx"]] + [c["latents"]] * c["layers"]
        self.blocks = nn.ModuleList(Block(d, heads, n, batch) for n in slots)
        self.norm, self.out = nn.LayerNorm(d), nn.Linear(d, c["vocab"])
        self.register_buffer("frequencies", 1.0 / c["ctx"] ** torch.linspace(0, 1, d // heads // 4))

    def forward(self, token, position, context_slot, latent_slot, sdpa):
        angles = position.float() * self.frequencies
        cos, sin = torch.cos(angles).to(DTYPE), torch.sin(angles).to(DTYPE)
        z = self.project(self.embedding(token))
        for i, block in enumerate(self.blocks):
            z = block(z, context_slot if i == 0 else latent_slot, cos, sin, sdpa)
        probabilities = torch.softmax(self.out(self.norm(z)).float(), -1)
        return torch.multinomial(probabilities, 1).squeeze(1)


def run(name, batch, sdpa, tokens=60):
    c = CONFIGS[name]
    torch.manual_seed(0)
    model = Decoder(c, batch).to(DEVICE).to(DTYPE)
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    token = torch.randint(3, c["vocab"], (batch,), device=DEVICE)
    position = torch.tensor([c["ctx"] - 100], device=DEVICE)
    latent = torch.tensor([c["latents"] - 100], device=DEVICE)

    def step(token):
        token = compiled(token, position, position, latent, sdpa).clone()
        position.add_(1)
        latent.add_(1)
        return token

    with torch.no_grad():
        for _ in range(6):
            token = step(token)
        torch.cuda.synchronize()
        start = time.time()
        for _ in range(tokens):
            token = step(token)
        torch.cuda.synchronize()
        seconds = (time.time() - start) / tokens
    weights = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embedding.")) * 2
    caches = sum(b.k.numel() + b.v.numel() for b in model.blocks) * 2
    bound = (weights + caches) / COPY_BANDWIDTH
    print(json.dumps(dict(
        bench="decode", config=name, batch=batch, sdpa=sdpa, step_us=round(seconds * 1e6, 1),
        tokens_s=round(batch / seconds, 1), weights_mb=round(weights / 1e6), caches_mb=round(caches / 1e6),
        bound_us=round(bound * 1e6, 1), fraction=round(bound / seconds, 3),
        peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2))), flush=True)
    del model, compiled
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def main():
    parser = argparse.ArgumentParser(description="Times generation in PyTorch, one token at a time.")
    parser.add_argument("configs", nargs="+", help="imagenet64, copy131k or music4k")
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    for name in arguments.configs:
        for sdpa in (False, True):
            try:
                run(name, arguments.batch, sdpa)
            except Exception as error:  # report it and go on with the next
                print(json.dumps(dict(bench="decode", config=name, sdpa=sdpa, error=str(error)[:200])), flush=True)


if __name__ == "__main__":
    main()
