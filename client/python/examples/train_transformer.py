#!/usr/bin/env python3
"""A small transformer that learns to write like Jane Austen, letter by letter.

    train_transformer.py                                       with torch.optim.AdamW, in this process
    train_transformer.py --endpoint http://127.0.0.1:7440      the same, its optimizer in the daemon
    train_transformer.py --endpoint ... --workers 2 --rank 0   one of two, which step together

Every size is a multiple of 16, and the arithmetic has one thread: then PyTorch's fused AdamW and the daemon's
have the same bits, and the losses of the first two are equal to the last digit.
"""

import argparse
import math
import pathlib

import torch
from torch import nn
from torch.nn import functional

TEXT = pathlib.Path(__file__).resolve().parent / "data" / "persuasion.txt"
LETTERS = 80  # 74 occur
CONTEXT = 64
WIDTH = 64
HEADS = 4
LAYERS = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Attention(nn.Module):
    """Each place looks at those before it."""

    def __init__(self):
        super().__init__()
        self.ask = nn.Linear(WIDTH, 3 * WIDTH)
        self.answer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("later", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1))

    def forward(self, x):
        count, length, _ = x.shape
        query, key, value = (part.reshape(count, length, HEADS, -1).transpose(1, 2)
                             for part in self.ask(x).chunk(3, dim=-1))
        weights = query @ key.transpose(2, 3) / math.sqrt(WIDTH // HEADS)
        weights = weights.masked_fill(self.later[:length, :length], -math.inf).softmax(dim=-1)
        return self.answer((weights @ value).transpose(1, 2).reshape(count, length, WIDTH))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.think = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x):
        x = x + self.attention(self.before(x))
        return x + self.think(self.between(x))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.letters = nn.Embedding(LETTERS, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.after = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, LETTERS)

    def forward(self, text):
        x = self.letters(text) + self.places(torch.arange(text.shape[1]))
        return self.head(self.after(self.blocks(x)))

    def loss(self, text):
        """Of each letter from those before it."""
        said = self(text[:, :-1]).float()
        return functional.cross_entropy(said.flatten(0, 1), text[:, 1:].flatten())


class Corpus:
    def __init__(self, path=TEXT):
        text = path.read_text(encoding="ascii")
        self.alphabet = sorted(set(text))
        assert len(self.alphabet) <= LETTERS
        number = {letter: i for i, letter in enumerate(self.alphabet)}
        self.numbers = torch.tensor([number[letter] for letter in text])

    def batches(self, count, seed):
        """Without end: `count` pieces, the same for the same seed."""
        chance = torch.Generator().manual_seed(seed)
        while True:
            starts = torch.randint(len(self.numbers) - CONTEXT - 1, (count,), generator=chance)
            yield torch.stack([self.numbers[start:start + CONTEXT + 1] for start in starts])


def make_optimizer(model, args):
    options = {"lr": args.lr, "weight_decay": 0.1, "fused": True}
    if args.endpoint is None:
        return torch.optim.AdamW(model.parameters(), **options)
    from adamd.torch import RemoteAdamW  # pylint: disable=import-outside-toplevel
    return RemoteAdamW(model.parameters(), **options, endpoint=args.endpoint, model=args.model,
                       workers=args.workers, rank=args.rank)


def train(args):
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    model = Transformer().to(DTYPES[args.dtype])
    optimizer = make_optimizer(model, args)
    for step, batch in zip(range(1, args.steps + 1), Corpus().batches(args.batch, args.seed)):
        optimizer.zero_grad()
        loss = model.loss(batch[args.rank::args.workers])
        loss.backward()
        optimizer.step()
        if step % args.every == 0:
            print(f"step {step} loss {loss.item():.4f} {loss.item().hex()}", flush=True)
    if args.endpoint is not None:
        optimizer.close()  # so that no other worker waits for this one


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", help="of the daemon; without it the optimizer is PyTorch's")
    parser.add_argument("--model", default="transformer", help="the model's name in the daemon")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16, help="pieces of text a step, of all workers")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rank", type=int, default=0, help="this worker's, from 0")
    parser.add_argument("--every", type=int, default=1, help="how many steps between two lines")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
