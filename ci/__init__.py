"""What the workflows in .github/workflows do; the Makefile's targets call it, so it runs on any machine.

Everything but `payload` needs Python alone: a job that holds credentials installs nothing for it.
"""
