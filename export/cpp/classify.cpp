// Runs a model of `spinn export --format torchscript` (of kind spinn, which parses for itself) with libtorch alone:
//
//     ./classify model.ts 5 9 12 / 7 8        ids of the premise's words / of the hypothesis's; of one sentence without /
//
// prints each output by name, and the label if the model has labels. libtorch comes with the Python package torch:
//
//     TORCH=$(python -c "import torch; print(torch.__path__[0])")
//     g++ -std=c++20 -O1 classify.cpp -o classify -I"$TORCH/include" -I"$TORCH/include/torch/csrc/api/include" \
//         -L"$TORCH/lib" -Wl,-rpath,"$TORCH/lib" -ltorch -ltorch_cpu -lc10
//
// Word ids are those of the tokenizer.json beside the model: `Tokenizer.from_file("tokenizer.json").encode(text).ids`.

#include <torch/script.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

// Words of each sentence, in the order of the arguments.
std::vector<std::vector<int64_t>> read_sentences(int n, char** arguments) {
  std::vector<std::vector<int64_t>> sentences(1);
  for (int i = 0; i < n; ++i) {
    if (std::string(arguments[i]) == "/")
      sentences.emplace_back();
    else
      sentences.back().push_back(std::stoll(arguments[i]));
  }
  return sentences;
}

// token_ids (1, N) int64, padded with 0, and lengths (1,) int64 of every sentence; N is that of the longest.
std::vector<c10::IValue> as_inputs(const std::vector<std::vector<int64_t>>& sentences) {
  size_t n_words = 0;
  for (const auto& words : sentences) n_words = std::max(n_words, words.size());
  std::vector<c10::IValue> inputs;
  for (const auto& words : sentences) {
    torch::Tensor token_ids = torch::zeros({1, static_cast<int64_t>(n_words)}, torch::kInt64);
    for (size_t i = 0; i < words.size(); ++i) token_ids[0][i] = words[i];
    inputs.emplace_back(token_ids);
    inputs.emplace_back(torch::tensor({static_cast<int64_t>(words.size())}));
  }
  return inputs;
}

int main(int n_arguments, char** arguments) {
  if (n_arguments < 3) {
    std::cerr << "usage: " << arguments[0] << " model.ts WORD_ID ... [/ WORD_ID ...]\n";
    return 2;
  }
  try {
    c10::InferenceMode no_gradients;
    torch::jit::ExtraFilesMap files{{"labels.txt", ""}};  // one a line, in the order of the logits
    torch::jit::Module model = torch::jit::load(arguments[1], torch::kCPU, files);
    const auto inputs = as_inputs(read_sentences(n_arguments - 2, arguments + 2));
    const auto outputs = model.forward(inputs).toGenericDict();
    std::cout.precision(9);
    for (const auto& output : outputs) {
      const torch::Tensor values = output.value().toTensor().to(torch::kFloat64).flatten();
      std::cout << output.key().toStringRef();
      for (int64_t i = 0; i < values.numel(); ++i) std::cout << ' ' << values[i].item<double>();
      std::cout << '\n';
    }
    if (outputs.contains("logits")) {
      const int64_t best = outputs.at("logits").toTensor().argmax(1).item<int64_t>();
      std::istringstream labels(files["labels.txt"]);
      std::string label;
      for (int64_t i = 0; i <= best; ++i) std::getline(labels, label);
      std::cout << "label " << label << '\n';
    }
  } catch (const c10::Error& error) {
    std::cerr << arguments[1] << ": " << error.what_without_backtrace() << '\n';
    return 1;
  } catch (const std::exception& error) {  // of the script, with where in it
    std::cerr << arguments[1] << ": " << error.what() << '\n';
    return 1;
  }
}
