"""What Megatron-LM reads, written from the description of its order alone, with a random generator of its own."""

from __future__ import annotations


class Mt19937:
    """The generator of Matsumoto and Nishimura (1998), seeded by one number, and the shuffle that numpy makes of it."""

    def __init__(self, seed: int) -> None:
        self.state = [seed & 0xFFFFFFFF]
        for i in range(1, 624):
            self.state.append((1812433253 * (self.state[-1] ^ (self.state[-1] >> 30)) + i) & 0xFFFFFFFF)
        self.at = 624

    def draw(self) -> int:
        if self.at == 624:
            for i in range(624):
                y = (self.state[i] & 0x80000000) | (self.state[(i + 1) % 624] & 0x7FFFFFFF)
                self.state[i] = self.state[(i + 397) % 624] ^ (y >> 1) ^ (0x9908B0DF if y & 1 else 0)
            self.at = 0
        y = self.state[self.at]
        self.at += 1
        y ^= y >> 11
        y ^= (y << 7) & 0x9D2C5680
        y ^= (y << 15) & 0xEFC60000
        return y ^ (y >> 18)

    def shuffle(self, items: list[int]) -> None:
        for i in range(len(items) - 1, 0, -1):
            mask = (1 << i.bit_length()) - 1
            while (j := self.draw() & mask) > i:
                pass
            items[i], items[j] = items[j], items[i]


def reference(
    lengths: list[int], sequences: range, *, num_samples: int | None, seq_len: int, extra: int, seed: int
) -> tuple[list[int], list[list[tuple[int, int, int]]]]:
    """Return the sequences of all epochs, and the samples in their order: each as (sequence, first token, tokens)."""
    tokens = sum(lengths[i] for i in sequences)
    epochs = 1
    while num_samples is not None and epochs * tokens < num_samples * seq_len + extra:
        epochs += 1
    random, apart, before = Mt19937(seed), False, 0
    if epochs > 1 and num_samples is not None:
        before = ((epochs - 1) * tokens - extra) // seq_len
        apart = num_samples - before < int(0.80 * ((tokens - extra) // seq_len))
    order = list(sequences) * (epochs - apart)
    random.shuffle(order)
    if apart:
        last = list(sequences)
        random.shuffle(last)
        order += last
    text = [(place, i, token) for place, i in enumerate(order) for token in range(lengths[i])]
    samples = (epochs * tokens - extra) // seq_len
    shuffled = list(range(before if apart else samples))
    random.shuffle(shuffled)
    rest = list(range(len(shuffled), samples))
    random.shuffle(rest)
    found = []
    for j in shuffled + rest:
        parts: list[tuple[int, int, int]] = []
        last_place = -1
        for place, i, token in text[j * seq_len : (j + 1) * seq_len + extra]:
            if place == last_place:
                parts[-1] = (i, parts[-1][1], parts[-1][2] + 1)
            else:
                parts.append((i, token, 1))
            last_place = place
        found.append(parts)
    return order, found
