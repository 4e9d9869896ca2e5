"""Perceiver AR and the plain Transformer as a strong PyTorch user would write them.

Fused projections, scaled_dot_product_attention, rotary encoding of half of each head: the model that
configs/bench/NAME.yaml describes, operation by operation. Shapes: B examples, N context tokens, M latents.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

CONFIGS = {
    "imagenet64": dict(vocab=259, ctx=12288, latents=1024, d=1024, h=16, layers=60, batch=8),
    "copy131k": dict(vocab=259, ctx=131072, latents=1024, d=1024, h=16, layers=6, batch=4),
    "music4k": dict(vocab=393, ctx=4096, latents=2048, d=1024, h=16, layers=12, batch=16),
    "small": dict(vocab=259, ctx=4096, latents=512, d=512, h=8, layers=8, batch=32),
    "transformer2k": dict(vocab=259, ctx=2048, latents=2048, d=1024, h=16, layers=16, batch=16, plain=True),
    "cpu": dict(vocab=259, ctx=2048, latents=256, d=256, h=4, layers=6, batch=4, device="cpu"),
}


def rotary_tables(positions, dim, max_wavelength):
    n = dim // 2
    inverse = 1.0 / (max_wavelength ** ((2.0 / dim) * torch.linspace(0, n, n, device=positions.device)))
    angles = positions.float()[:, None] * inverse[None]
    return torch.cos(angles), torch.sin(angles)


def rotate(x, cos, sin):
    """Rotates interleaved pairs of the first 2 * cos.shape[-1] channels of x [B, heads, N, head width]."""
    k = 2 * cos.shape[-1]
    rotated, passed = x[..., :k], x[..., k:]
    a, b = rotated[..., ::2], rotated[..., 1::2]
    c, s = cos.to(x.dtype), sin.to(x.dtype)
    y = torch.stack((a * c - b * s, b * c + a * s), -1).flatten(-2)
    return torch.cat((y, passed), -1)


class Mlp(nn.Module):
    def __init__(self, d, widening=4):
        super().__init__()
        self.up = nn.Linear(d, widening * d)
        self.down = nn.Linear(widening * d, d)

    def forward(self, x):
        return self.down(F.relu(self.up(x)).square())


class SelfBlock(nn.Module):
    def __init__(self, d, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = Mlp(d)

    def forward(self, x, rotary):
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.dropout(self.out(y.transpose(1, 2).reshape(B, T, D)), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.norm2(x)), self.dropout, self.training)


class CrossBlock(nn.Module):
    def __init__(self, d, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_q, self.norm_kv, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.kv, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.mlp = Mlp(d)

    def forward(self, z, x, rotary_q, rotary_k):
        B, M, D = z.shape
        N, width = x.shape[1], D // self.heads
        q = self.q(self.norm_q(z)).view(B, M, self.heads, width).transpose(1, 2)
        k, v = self.kv(self.norm_kv(x)).view(B, N, 2, self.heads, width).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, *rotary_q), rotate(k, *rotary_k)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(M, N))
        z = z + F.dropout(self.out(y.transpose(1, 2).reshape(B, M, D)), self.dropout, self.training)
        return z + F.dropout(self.mlp(self.norm2(z)), self.dropout, self.training)


class Model(nn.Module):
    """Returns the mean cross-entropy of targets y [B, M] given tokens [B, N]; `plain`: no cross-attention, M = N."""

    def __init__(self, vocab, ctx, latents, d, h, layers, plain=False, dropout=0.0, rotary_fraction=0.5, **_):
        super().__init__()
        self.latents, self.ctx, self.plain = latents, ctx, plain
        self.rotary_dim = int(d // h * rotary_fraction) // 2 * 2
        self.embedding, self.project = nn.Embedding(vocab, d), nn.Linear(d, d)
        if not plain:
            self.cross = CrossBlock(d, h, dropout)
        self.blocks = nn.ModuleList(SelfBlock(d, h, dropout) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(d), nn.Linear(d, vocab)

    def forward(self, tokens, y):
        M = self.latents
        rotary_k = rotary_tables(torch.arange(tokens.shape[1], device=tokens.device), self.rotary_dim, self.ctx)
        rotary_q = (rotary_k[0][-M:], rotary_k[1][-M:])
        x = self.embedding(tokens)
        z = self.project(x[:, -M:])
        if not self.plain:
            z = self.cross(z, x, rotary_q, rotary_k)
        for block in self.blocks:
            z = block(z, rotary_q)
        return F.cross_entropy(self.out(self.norm(z)).flatten(0, 1), y.flatten())


def step_flops(c):
    """Model FLOPs of one example, forward and backward (three times forward); causal attention at its real area."""
    N, M, D, L, V = c["ctx"], c["latents"], c["d"], c["layers"], c["vocab"]
    self_blocks = L * (2 * M * 12 * D * D + 4 * D * M * (M + 1) / 2)
    ends = 2 * M * D * D + 2 * M * D * V  # the latents' projection and the logits
    if c.get("plain"):
        return 3 * (ends + self_blocks)
    cross = 2 * M * D * D * 2 + 2 * N * D * 2 * D  # queries and outputs; keys and values
    cross += 4 * D * (M * N - M * (M - 1) / 2)  # attention
    cross += 2 * M * 8 * D * D  # MLP
    return 3 * (ends + cross + self_blocks)
