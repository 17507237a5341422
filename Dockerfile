# The service on a CPU, with the tested set of packages. The folder of a bundle is mounted at /bundle:
#   docker build -t recbole-qbert .
#   docker run -p 8000:8000 -v "$PWD/saved/Shop/RUN/bundle:/bundle:ro" recbole-qbert
# Flags of `recbole-qbert serve` may follow the name of the image. `--build-arg PIP_EXTRA_INDEX_URL=...`, with PyTorch's
# index of builds for CPUs, makes a much smaller image.
FROM python:3.13-slim

ARG PIP_EXTRA_INDEX_URL

WORKDIR /app
COPY setup.cfg pyproject.toml MANIFEST.in README.md LICENSE ./
COPY constraints/python3.13.txt constraints/
COPY properties properties
COPY recbole_qbert recbole_qbert
RUN pip install --no-cache-dir -c constraints/python3.13.txt '.[serve]' \
    && pip install --no-cache-dir --no-deps recbole==1.2.1

RUN useradd --create-home recbole
USER recbole
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["recbole-qbert", "serve", "/bundle", "--host=0.0.0.0", "--port=8000"]
