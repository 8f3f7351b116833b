"""Hubspoke: a hub-and-spoke data warehouse beside a dbt project."""
