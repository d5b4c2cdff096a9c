# A server of an export, on a CPU, without torch and without root:
#     spinn export runs/spinn --format onnx --output exported/spinn
#     docker build -t spinn . && docker run -p 3000:3000 -v $PWD/exported/spinn:/model:ro spinn
FROM python:3.13-slim
COPY . /src
# of the extra `serve` and of `OnnxPredictor`: all but torch and what training needs
RUN pip install --no-cache-dir --constraint /src/constraints.txt \
        numpy onnxruntime tokenizers orjson lazy_loader \
        starlette uvicorn httptools uvloop msgspec prometheus-client \
    && pip install --no-cache-dir --no-deps /src \
    && rm -rf /src \
    && useradd --system spinn
USER spinn
EXPOSE 3000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as http; http.urlopen('http://127.0.0.1:3000/health')"]
ENTRYPOINT ["python", "-m", "spinn_tensor.export.serve", "--hostname", "0.0.0.0"]
CMD ["/model"]
