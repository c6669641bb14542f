"""Bulk jobs whose output is a folder with a file for each shard, made by any number of workers."""
