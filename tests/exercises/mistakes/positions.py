"""Solutions of "positions" that are wrong, and some that are right."""

import math

import numpy as np

from minivit.exercises.e09_positions import shift as right_shift
from tests.exercises.mistakes import right, wrong


def turn(dim, k):
    """cos and sin of the angle by which each pair turns in k steps"""
    angle = k / 10000 ** (np.arange(0, dim, 2) / dim)
    return np.cos(angle), np.sin(angle)


@wrong("own_frequency", "gives the cosine a frequency of its own, with the number of its column in the exponent")
def sinusoidal(num_positions, dim):
    angles = np.arange(num_positions)[:, None] / 10000 ** (np.arange(dim) / dim)
    angles[:, 0::2], angles[:, 1::2] = np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])
    return angles


@wrong("index_doubled", "takes j for the number of the column, as the slide's words say, and puts 2j/D into the exponent")
def sinusoidal(num_positions, dim):
    table = np.zeros((num_positions, dim))
    for pos in range(num_positions):
        for j in range(dim):
            angle = pos / 10000 ** (2 * j / dim)
            table[pos, j] = math.sin(angle) if j % 2 == 0 else math.cos(angle)
    return table


@wrong("exponent_doubled", "counts 0, 2, 4, ... and doubles that once more")
def sinusoidal(num_positions, dim):
    table = np.zeros((num_positions, dim))
    for pos in range(num_positions):
        for j in range(0, dim, 2):
            table[pos, j] = math.sin(pos / 10000 ** (2 * j / dim))
            table[pos, j + 1] = math.cos(pos / 10000 ** (2 * j / dim))
    return table


@wrong("not_interleaved", "puts all sines before all cosines")
def sinusoidal(num_positions, dim):
    angles = np.arange(num_positions)[:, None] / 10000 ** (2 * np.arange(dim // 2) / dim)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


@wrong("sine_and_cosine_swapped", "counts the columns from 1 and so puts the cosines into the even ones")
def sinusoidal(num_positions, dim):
    angles = np.arange(num_positions)[:, None] / 10000 ** (2 * np.arange(dim // 2) / dim)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(num_positions, dim)


@wrong("multiplied", "loses the minus of the exponent and multiplies by the power")
def sinusoidal(num_positions, dim):
    table = np.zeros((num_positions, dim))
    frequency = np.exp(np.arange(0, dim, 2) * (math.log(10000.0) / dim))
    table[:, 0::2] = np.sin(np.arange(num_positions)[:, None] * frequency)
    table[:, 1::2] = np.cos(np.arange(num_positions)[:, None] * frequency)
    return table


@wrong("counted_from_one", "counts the positions from 1, as the slide's picture does")
def sinusoidal(num_positions, dim):
    angles = np.arange(1, num_positions + 1)[:, None] / 10000 ** (np.arange(0, dim, 2) / dim)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(num_positions, dim)


@wrong("turned_backwards", "mistakes the signs of sin(a + b) and cos(a + b) for those of a - b")
def shift(encodings, k):
    c, s = turn(encodings.shape[1], k)
    sine, cosine = encodings[:, 0::2], encodings[:, 1::2]
    return np.stack([sine * c - cosine * s, cosine * c + sine * s], axis=-1).reshape(encodings.shape)


@wrong("one_angle", "turns every pair by k radians")
def shift(encodings, k):
    sine, cosine = encodings[:, 0::2], encodings[:, 1::2]
    even, odd = sine * math.cos(k) + cosine * math.sin(k), cosine * math.cos(k) - sine * math.sin(k)
    return np.stack([even, odd], axis=-1).reshape(encodings.shape)


@wrong("half_updated", "overwrites the sines before the cosines are computed from them")
def shift(encodings, k):
    out = encodings.copy()
    c, s = turn(encodings.shape[1], k)
    out[:, 0::2] = out[:, 0::2] * c + out[:, 1::2] * s
    out[:, 1::2] = out[:, 1::2] * c - out[:, 0::2] * s
    return out


@wrong("mutated_input", "writes the turned pairs into the encodings that it was given")
def shift(encodings, k):
    c, s = turn(encodings.shape[1], k)
    sine, cosine = encodings[:, 0::2].copy(), encodings[:, 1::2].copy()
    encodings[:, 0::2] = sine * c + cosine * s
    encodings[:, 1::2] = cosine * c - sine * s
    return encodings


@wrong("transposed", "turns the cotangent the same way as the encodings: the matrix instead of its transpose")
def shift_backward(g, encodings, k):
    return right_shift(g, k)


@wrong("missing_term", "follows only the way from a feature to itself, not to its partner")
def shift_backward(g, encodings, k):
    c, _ = turn(g.shape[1], k)
    return g * np.repeat(c, 2)


@wrong("cotangent_ignored", "turns the encodings back instead of the cotangent")
def shift_backward(g, encodings, k):
    return right_shift(encodings, -k)


@right("with loops and math.sin, as the formula is printed")
class _:
    def sinusoidal(num_positions, dim):
        table = np.zeros((num_positions, dim))
        for pos in range(num_positions):
            for j in range(dim // 2):
                table[pos, 2 * j] = math.sin(pos / 10000 ** (2 * j / dim))
                table[pos, 2 * j + 1] = math.cos(pos / 10000 ** (2 * j / dim))
        return table

    def shift_backward(g, encodings, k):
        out = np.zeros_like(g)
        for j in range(g.shape[1] // 2):
            a = k / 10000 ** (2 * j / g.shape[1])
            out[:, 2 * j] += math.cos(a) * g[:, 2 * j] - math.sin(a) * g[:, 2 * j + 1]
            out[:, 2 * j + 1] += math.sin(a) * g[:, 2 * j] + math.cos(a) * g[:, 2 * j + 1]
        return out


@right("with complex numbers: a hand is one, a turn a product")
class _:
    def sinusoidal(num_positions, dim):
        hands = np.exp(1j * np.outer(np.arange(num_positions), 10000.0 ** -(np.arange(0, dim, 2) / dim)))
        return np.stack([hands.imag, hands.real], axis=-1).reshape(num_positions, dim)

    def shift(encodings, k):
        c, s = turn(encodings.shape[1], k)
        hands = (encodings[:, 1::2] + 1j * encodings[:, 0::2]) * (c + 1j * s)
        return np.stack([hands.imag, hands.real], axis=-1).reshape(encodings.shape)


@right("with the rotation as a matrix, and its transpose")
class _:
    def shift(encodings, k):
        return encodings @ rotation(encodings.shape[1], k).T

    def shift_backward(g, encodings, k):
        return g @ rotation(encodings.shape[1], k)


@right("with exp and log for the frequencies, and a cosine as a shifted sine")
def sinusoidal(num_positions, dim):
    frequency = np.exp(-math.log(10000.0) / dim * (np.arange(dim) // 2 * 2))
    return np.sin(np.arange(num_positions)[:, None] * frequency + np.arange(dim) % 2 * np.pi / 2)


def rotation(dim, k):
    matrix = np.zeros((dim, dim))
    c, s = turn(dim, k)
    for j in range(dim // 2):
        matrix[2 * j : 2 * j + 2, 2 * j : 2 * j + 2] = [[c[j], s[j]], [-s[j], c[j]]]
    return matrix
