"""Mappers of machines that are neither CPUs nor GPUs."""
