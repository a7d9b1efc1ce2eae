"""A small perceptron on handwritten digits: an ordinary training script."""

import argparse
import pathlib

import torch

DATA = pathlib.Path(__file__).resolve().parents[2] / "examples" / "data" / "digits.csv"


def load():
    """Pixels from 0 to 1 and classes; every fifth line is held out."""
    rows = torch.tensor([[int(field) for field in line.split(",")] for line in DATA.open()])
    held = torch.arange(len(rows)) % 5 == 0
    inputs, labels = rows[:, :-1].float() / 16, rows[:, -1]
    return inputs[~held], labels[~held], inputs[held], labels[held]


def train(model, optimizer, inputs, labels, epochs, batch=64):
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(inputs)).split(batch):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        schedule.step()
        print(f"epoch {epoch + 1:2}   loss {total / len(inputs):.6f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()

    torch.manual_seed(1)
    inputs, labels, held_inputs, held_labels = load()
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(),
        torch.nn.Linear(128, 64), torch.nn.ReLU(),
        torch.nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    train(model, optimizer, inputs, labels, arguments.epochs)
    with torch.no_grad():
        right = (model(held_inputs).argmax(1) == held_labels).float().mean().item()
    print(f"held-out accuracy {right:.4f}")


if __name__ == "__main__":
    main()
