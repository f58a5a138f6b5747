// An edit in node-llama-cpp with its prebuilt libraries.
//
//     npm install node-llama-cpp
//     llama-jola with edit.gguf -- node examples/node/complete.mjs base.gguf 'Message: …'

import {getLlama, LlamaCompletion} from "node-llama-cpp";

const [modelPath, prompt] = process.argv.slice(2);
const llama = await getLlama({build: "never", gpu: false}); // its prebuilt shared libraries
const model = await llama.loadModel({modelPath});
const context = await model.createContext(); // fails when the edit is not for this model
const completion = new LlamaCompletion({contextSequence: context.getSequence()});
console.log(await completion.generateCompletion(prompt, {maxTokens: 8, temperature: 0}));
await llama.dispose();
