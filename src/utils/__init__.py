"""What the runner needs beside the experiment itself."""
