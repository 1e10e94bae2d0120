"""From records to batches: files and SeqIO, templates, tasks, token ids, metrics.

records -> templates -> task -> encoding -> batches (packing) -> prefetch
"""
